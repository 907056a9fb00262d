"""Read again everything since a moment, in one partition or all of them."""

import os
from datetime import UTC, datetime, timedelta

import trio

import dduomq

SERVER = os.environ.get("DDUOMQ_SERVER", "localhost:6086")


async def main() -> None:
    async with dduomq.connect(SERVER) as mq:
        await mq.send("events", b"something happened", headers={"source": "example"}, tag="demo")

        an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
        async with mq.reader("events", start=an_hour_ago) as reader:
            while records := await reader.pull(max_records=100, timeout=0.5):
                for record in records:
                    print(record.offset, record.tag, dict(record.headers), record.value)


if __name__ == "__main__":
    trio.run(main)
