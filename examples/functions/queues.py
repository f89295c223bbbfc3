"""Two queues, so that a short job never waits behind a long one: `naq worker mail`, `naq worker video`.

    $ naq enqueue --queue mail --runner python --call queues:send_mail --module-path "$PWD" --wait -- '"a@b.c"' '"Your order"'
    to a@b.c: Your order
    $ naq enqueue --queue video --timeout 1h --runner python --call queues:transcode --module-path "$PWD" --wait -- 12345
    transcoded 12345
"""

import asyncio


async def send_mail(address, subject):
    print(f"to {address}: {subject}")


def transcode(video_id):
    asyncio.run(asyncio.sleep(0.1))
    print("transcoded", video_id)
    return {"video": video_id, "format": "av1"}
