"""A job that recurs. `naq dev` or `naq scheduler` enqueues it when it is due.

    $ naq schedule --name nightly --cron '0 2 * * *' --tz UTC --runner python --call report:nightly --module-path "$PWD" > /dev/null
    $ naq schedule pause nightly > /dev/null
    $ naq schedule resume nightly > /dev/null
    $ naq result --wait $(naq schedule trigger nightly)
    report of 3 sales
    $ naq schedule delete nightly > /dev/null
"""

SALES = [120, 80, 45]


def nightly():
    print(f"report of {len(SALES)} sales")
    return {"sales": len(SALES), "total": sum(SALES)}
