"""Share a topic's work out over the members of a group: here two of them, in one program."""

import os

import trio

import dduomq

SERVER = os.environ.get("DDUOMQ_SERVER", "localhost:6086")
COUNT = 20


async def work(name: str, done: list[str], finished: trio.Event) -> None:
    async with dduomq.connect(SERVER) as mq, mq.consumer("parcels", group="packers") as consumer:
        async for record in consumer:  # asking for the next one says that the work on this one is done
            done.append(f"{name} packed {record.raw_value.decode()}")
            if len(done) >= COUNT:
                finished.set()


async def main() -> None:
    done: list[str] = []
    finished = trio.Event()
    async with trio.open_nursery() as nursery:
        for name in ("Ada", "Bob"):
            nursery.start_soon(work, name, done, finished)
        async with dduomq.connect(SERVER) as mq:
            for number in range(COUNT):
                await mq.send("parcels", f"parcel {number}", key=f"customer-{number % 5}")
            await finished.wait()
            nursery.cancel_scope.cancel()  # both commit what they have done, and leave the group
    async with dduomq.connect(SERVER) as mq:
        behind = sum(lag.records for lag in await mq.admin.group_lag("packers"))
    print("\n".join(sorted(done)))
    print(f"{behind} parcels left")


trio.run(main)
