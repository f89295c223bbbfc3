#!/bin/sh
# Enqueues one job for each file it is given, waits for all, and prints each outcome.
#
#   ./produce.sh FILE...
#
# Needs a worker of the queue `digests`: naq worker digests
set -eu

[ $# -gt 0 ] || { echo "usage: produce.sh FILE..." >&2; exit 2; }

# Every argument goes to the job as it is: no quoting, whatever is in a name. The label is for
# people. `enqueue` prints the id and nothing else, so that it can be kept in a variable.
ids=
for file in "$@"; do
    path=$(realpath -- "$file")
    id=$(naq enqueue --queue digests --label producer=shell --timeout 1m -- sha256sum -- "$path")
    ids="$ids $id"
done

# `wait` exits with 1 where a job did not succeed. Ids have no spaces.
# shellcheck disable=SC2086
naq wait $ids >/dev/null || echo "not every job succeeded" >&2

for id in $ids; do
    naq result "$id"
done
