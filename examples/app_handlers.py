"""Handlers by decoration, under asyncio: many at once, each customer's orders one after another, none twice."""

import asyncio
import os

import dduomq

SERVER = os.environ.get("DDUOMQ_SERVER", "localhost:6086")
app = dduomq.App(SERVER, serializer=dduomq.json)
billed: list[int] = []
all_billed = asyncio.Event()


async def bill(record: dduomq.Record) -> None:
    await asyncio.sleep(0.01)  # as if a card were charged
    billed.append(record.value["order"])
    if len(billed) == 20:
        all_billed.set()


# A record may come again after a crash; its mark in the store says that it was billed.
app.consumer("app-orders", group="billing", concurrency=8, ordered="key")(dduomq.once(bill))


@app.consumer("app-orders", group="audit", filter="amount > 15")
def note(record: dduomq.Record) -> None:
    """Not async: it runs in a thread. The broker sends it only what its filter wants."""
    print(f"order {record.value['order']} of {record.key.decode()} is a large one")


async def main() -> None:
    running = asyncio.create_task(app.run())
    async with dduomq.connect(SERVER, serializer=dduomq.json) as mq:
        for order in range(20):
            await mq.send("app-orders", {"order": order}, key=f"c{order % 4}", headers={"amount": str(order)})
    await all_billed.wait()
    running.cancel()  # handlers end, what they did is committed, the groups are left
    await asyncio.gather(running, return_exceptions=True)
    print(f"{len(set(billed))} orders billed")


asyncio.run(main())
