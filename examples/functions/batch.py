"""Many calls from one program: a line of JSON each, all by one connection.

    $ python3 batch.py "$PWD" 20 | naq enqueue --quiet -f -
    $ naq wait $(seq -f 'square-%g' 20) > /dev/null
    $ naq status square-12 --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["result"])'
    144
"""

import json
import sys


def square(number):
    return number * number


def main():
    folder, count = sys.argv[1], int(sys.argv[2])
    for number in range(1, count + 1):
        call = {"function": "batch:square", "runner": "python", "args": [number], "module_path": [folder]}
        print(json.dumps({"job_id": f"square-{number}", **call}))


if __name__ == "__main__":
    main()
