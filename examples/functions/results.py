"""The result of a job is JSON, and stays for a week unless the job says otherwise.

Arguments after `--` are JSON values, so a text has quotes of its own; `--kwargs` are the named ones.

    $ naq enqueue --quiet --id words --result-ttl 24h --runner python --call results:count_words --module-path "$PWD" --kwargs '{"min": 4}' -- '"the quick brown fox"'
    $ naq wait words
    words  succeeded
    $ naq status words --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["result"])'
    {'words': 2, 'longest': 'quick'}
"""


def count_words(text, *, min=1):
    words = [word for word in text.split() if len(word) >= min]
    return {"words": len(words), "longest": max(words, key=len, default=None)}
