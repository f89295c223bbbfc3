"""Errors that no retry repairs: `naq.Fatal` ends the job at once, whatever `--retries` says. The record has type, message
and traceback.

    $ naq enqueue --quiet --id transfer --retries 5 --runner python --call accounts:transfer --module-path "$PWD" -- '"ada"' '"bob"' 10
    $ naq wait transfer > /dev/null || echo "exit code $?"
    exit code 1
    $ naq status transfer --json | python3 -c 'import json, sys; record = json.load(sys.stdin); print(record["attempt"], record["error"])'
    1 accounts.NoSuchAccount: bob
    $ naq enqueue --runner python --call accounts:transfer --module-path "$PWD" --wait -- '"ada"' '"eve"' 10
    ada -> eve: 10
"""

import naq

ACCOUNTS = {"ada": 100, "eve": 0}


class NoSuchAccount(naq.Fatal):
    pass


def transfer(source, target, amount):
    for name in (source, target):
        if name not in ACCOUNTS:
            raise NoSuchAccount(name)
    print(f"{source} -> {target}: {amount}")
    return amount
