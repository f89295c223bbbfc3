"""A job that starts later. The server holds it: no scheduler runs, and a restart loses nothing.

    $ naq enqueue --in 200ms --runner python --call reminder:remind --module-path "$PWD" --wait -- '"ada"' '"The meeting starts."'
    ada: The meeting starts.
    $ naq enqueue --quiet --id next-decade --at '2035-01-01T09:00:00Z' --runner python --call reminder:remind --module-path "$PWD" -- '"ada"' '"Still there?"'
    $ naq cancel next-decade
    next-decade  cancelled
"""


def remind(user, message):
    print(f"{user}: {message}")
    return f"reminded {user}"
