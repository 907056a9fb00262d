"""A record that comes later, and one that is taken back in time."""

import os

import anyio

import dduomq

SERVER = os.environ.get("DDUOMQ_SERVER", "localhost:6086")


async def main() -> None:
    async with dduomq.connect(SERVER) as mq:
        await mq.send("reminders", "tea is ready", delay=0.5)
        mistake = await mq.send("reminders", "tea is cold", delay=0.5)
        assert mistake.delay_id is not None
        await mq.admin.cancel_delayed(mistake.delay_id)
        async with mq.reader("reminders") as reader:
            async for record in reader:
                print(record.value.decode(), "due at", record.header("dduomq-delayed-until"))
                break


if __name__ == "__main__":
    anyio.run(main)
