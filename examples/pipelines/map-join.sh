#!/bin/sh
# Fan-out and fan-in: one job for each LINE of standard input, and one that gets all of their outcomes.
#
#   printf 'one\ntwo\n' | ./map-join.sh NAME
#
# Needs workers of the queue `pipelines`: naq worker pipelines
set -eu

[ $# -eq 1 ] || { echo "usage: map-join.sh NAME < LINES" >&2; exit 2; }

# Enqueueing the same lines under the same name again has no effect, so this script may be repeated.
naq enqueue --queue pipelines --map - --id "$1" --quiet -- sh -c 'printf %s "$1" | wc -c' sh '{}'

# The job starts when all have ended, in whatever way, and reads one line of JSON for each, in their order.
naq enqueue --queue pipelines --join "$1=finished" --wait -- sh -c '
    sed -E "s/.*\"state\":\"([a-z]+)\".*\"stdout\":\" *([0-9]*).*/\1 \2/"
'
