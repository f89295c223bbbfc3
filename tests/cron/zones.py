"""The times of `0 9 * * *` in every zone, by Python's zoneinfo.

The first argument is the first day, the second the number of days. Prints the folder of the zones, then
an object per zone.
"""

import datetime
import json
import os
import sys
import zoneinfo

import tzdata

first = datetime.date.fromisoformat(sys.argv[1])
days = int(sys.argv[2])
print(os.path.join(os.path.dirname(tzdata.__file__), "zoneinfo"))
for name in sorted(zoneinfo.available_timezones()):
    zone = zoneinfo.ZoneInfo(name)
    times = [
        datetime.datetime.combine(
            first + datetime.timedelta(days=day), datetime.time(9), zone
        ).isoformat()
        for day in range(days)
    ]
    print(json.dumps({"zone": name, "times": times}))
