"""Jobs that wait for others. Here the steps share a folder.

    $ export FOLDER="$(mktemp -d)"
    $ naq enqueue --quiet --id download -e FOLDER --runner python --call pipeline:download --module-path "$PWD" -- '"a b b c"'
    $ naq enqueue --quiet --id count -e FOLDER --depends-on download --runner python --call pipeline:count --module-path "$PWD"
    $ naq enqueue -e FOLDER --depends-on count --runner python --call pipeline:upload --module-path "$PWD" --wait
    uploaded {'a': 1, 'b': 2, 'c': 1}
    $ rm -r "$FOLDER"
"""

import collections
import json
import os
import pathlib


def folder():
    return pathlib.Path(os.environ["FOLDER"])


def download(text):
    folder().joinpath("text").write_text(text)


async def count():
    words = folder().joinpath("text").read_text().split()
    folder().joinpath("counts").write_text(json.dumps(collections.Counter(words)))
    return len(words)


def upload():
    print("uploaded", json.loads(folder().joinpath("counts").read_text()))
