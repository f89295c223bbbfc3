"""A function, called by a worker. What it prints is the job's output; what it returns is the job's result.

    $ naq enqueue --runner python --call hello:greet --module-path "$PWD" --wait -- '"world"'
    Hello, world!
    $ naq enqueue --runner python --call hello:greet_later --module-path "$PWD" --wait -- '"later"'
    Hello, later!
"""

import asyncio


def greet(name):
    greeting = f"Hello, {name}!"
    print(greeting)
    return greeting


async def greet_later(name):
    await asyncio.sleep(0.1)
    return greet(name)
