"""The answers of cronsim and croniter: one question per line, one line of answers each.

An answer is a list of instants, in seconds since 1970, or a text that says why there are none.
"""

import json
import re
import signal
import sys
from datetime import datetime, timezone
from itertools import islice
from zoneinfo import ZoneInfo

from croniter import croniter
from cronsim import CronSim, CronSimError


def start(question):
    # cronsim recognises UTC only by this object.
    zone = question["zone"]
    zone = timezone.utc if zone == "UTC" else ZoneInfo(zone)
    return datetime.fromtimestamp(question["after"], zone)


def by_cronsim(question):
    times = CronSim(question["expression"], start(question))
    return [int(time.timestamp()) for time in islice(times, question["count"])]


def by_croniter(question):
    times = croniter(
        # it has the L first
        re.sub(r"(\d)L", r"L\1", question["expression"]),
        start(question),
        second_at_beginning=True,
        # crontab's rule for days, which the package takes for a bug
        implement_cron_bug=True,
        max_years_between_matches=50,
    )
    return [int(times.get_next()) for _ in range(question["count"])]


def give_up(*_):
    raise TimeoutError("took too long")


def answer(by, question):
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return by(question)
    except (CronSimError, ValueError, TimeoutError) as error:
        return str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


# some answers would be never: this is time of the processor, of which all others take little
SECONDS = 3
signal.signal(signal.SIGPROF, give_up)


for line in sys.stdin:
    question = json.loads(line)
    answers = [answer(by, question) for by in (by_cronsim, by_croniter)]
    print(json.dumps(answers))
