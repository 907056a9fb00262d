"""Every consumer reads everything, and keeps its own place in a file: caches, configuration, price lists."""

import os
import tempfile

import trio

import dduomq

SERVER = os.environ.get("DDUOMQ_SERVER", "localhost:6086")


async def main() -> None:
    place = os.path.join(tempfile.gettempdir(), f"prices-{os.getpid()}.offsets")
    async with dduomq.connect(SERVER) as mq:
        for price in (10, 11, 12):
            await mq.send("prices", str(price), key="tea")
        for start in ("first", "second"):
            async with mq.consumer("prices", mode="broadcast", offsets_file=place, latest_only=True) as consumer:
                prices = {record.key: record.value for record in await consumer.pull(timeout=1)}
            print(f"{start} start: {prices}")  # the second one goes on behind what the first one has read
    os.unlink(place)


trio.run(main)
