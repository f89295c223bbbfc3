#!/bin/sh
# Enqueues one job for each FILE, waits for all jobs, and prints each result.
#
#   ./produce.sh FILE...
#
# Needs a worker of the queue `digests`: naq worker digests
set -eu

[ $# -gt 0 ] || { echo "usage: produce.sh FILE..." >&2; exit 2; }

# Every argument reaches the job unchanged: no quoting, whatever a name contains. The label is for
# people. `enqueue` prints only the id, so that a variable can hold it.
ids=
for file in "$@"; do
    path=$(realpath -- "$file")
    id=$(naq enqueue --queue digests --label producer=shell --timeout 1m -- sha256sum -- "$path")
    ids="$ids $id"
done

# `wait` exits with 1 if a job did not succeed. Ids contain no spaces.
# shellcheck disable=SC2086
naq wait $ids >/dev/null || echo "not every job succeeded" >&2

for id in $ids; do
    naq result "$id"
done
