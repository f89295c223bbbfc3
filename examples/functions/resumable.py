"""A long job that says how far it is, and continues there after a crash: the next attempt gets the last checkpoint.

    $ naq enqueue --id import --retries 1 --retry-delay 10ms --runner python --call resumable:load --module-path "$PWD" --wait -- 6
    row 4
    row 5
    row 6
    $ naq status import --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["progress"])'
    {'percent': 100.0, 'message': 'row 6'}
"""

from naq import current


def load(rows):
    first = current.last_checkpoint(0) + 1
    for row in range(first, rows + 1):
        print("row", row)
        current.checkpoint(row)
        current.progress(100 * row // rows, f"row {row}")
        if row == rows // 2 and current.attempt() == 1:
            raise RuntimeError("the connection is lost")
    return rows
