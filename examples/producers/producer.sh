#!/bin/sh
# Enqueues a job over HTTP and waits for its outcome, with curl and jq: see README.md.
set -eu
api() { curl --silent --show-error --fail-with-body --max-time 90 --oauth2-bearer "$API_TOKEN" "$@"; }

id=$(cat /proc/sys/kernel/random/uuid)
api --request PUT "$API_URL/api/queues/build/jobs/$id" \
    --json '{"command": "echo", "args": ["hello from the shell"], "timeout": "1m"}' >/dev/null

# answers when the job has ended, or after 60 s
state=$(api "$API_URL/api/jobs/$id?wait=60s" | jq --raw-output .state)
printf '%s %s\n' "$state" "$(api "$API_URL/api/jobs/$id/stdout")"
[ "$state" = succeeded ]
