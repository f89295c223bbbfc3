#!/bin/sh
# A pipeline of two steps that share no disk: one job lists the words of TEXT, the next one counts them.
#
#   ./two-steps.sh TEXT
#
# Needs workers of the queue `pipelines`, on any machines: naq worker pipelines
set -eu

[ $# -eq 1 ] || { echo "usage: two-steps.sh TEXT" >&2; exit 2; }

words=$(naq enqueue --queue pipelines -- sh -c '
    for word in $1; do echo "$word"; done
    naq result --set "{\"source\": \"two-steps\"}"
' sh "$1")

# `as=words` gives the job a folder with the output, the result and the outcome of the first one.
naq enqueue --queue pipelines --depends-on "$words,as=words" --wait -- sh -c '
    cd "$NAQ_INPUTS/words"
    sort stdout | uniq -c | sort -k1,1nr -k2 | while read -r count word; do echo "$count $word"; done
    cat result.json; echo
'
