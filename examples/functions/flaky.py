"""A function that fails at times. Any exception is a failure, and retries follow as the job says; `naq.Retry` asks for one
after a wait of its own.

    $ naq enqueue --retries 3 --retry-delay 10ms,20ms,40ms --runner python --call flaky:call_api --module-path "$PWD" --wait -- 3
    attempt 3: the API answers
    $ naq enqueue --retries 3 --runner python --call flaky:wait_for_lock --module-path "$PWD" --wait -- 2
    attempt 2: locked
"""

import naq


def call_api(works_at):
    attempt = naq.current.attempt()
    if attempt < works_at:
        raise ConnectionError("the API does not answer")
    print(f"attempt {attempt}: the API answers")
    return attempt


def wait_for_lock(free_at):
    attempt = naq.current.attempt()
    if attempt < free_at:
        raise naq.Retry("another process has the lock", after="50ms")
    print(f"attempt {attempt}: locked")
