"""Work on one partition together: each record is one worker's for a while, who says what became of it."""

import os

import trio

import dduomq

SERVER = os.environ.get("DDUOMQ_SERVER", "localhost:6086")
COUNT = 20


async def main() -> None:
    shown: list[str] = []
    finished = trio.Event()

    async def resize(picture: dduomq.QueueRecord) -> None:
        if picture.delivery_count == 1 and picture.value.endswith(b"7"):
            raise OSError("the camera is away")  # it comes again, to whoever is free then
        shown.append(f"{picture.value.decode()} is resized, at try {picture.delivery_count}")
        if len(shown) == COUNT:
            finished.set()

    async def worker() -> None:
        async with dduomq.connect(SERVER) as mq, mq.queue("pictures", group="resizers") as queue:
            await queue.run(resize, concurrency=4, backoff=0.1)

    async with trio.open_nursery() as nursery:
        for _ in range(3):  # three workers, though the topic has one partition
            nursery.start_soon(worker)
        async with dduomq.connect(SERVER) as mq:
            for number in range(COUNT):
                await mq.send("pictures", f"picture {number}")
            await finished.wait()
            nursery.cancel_scope.cancel()
    print("\n".join(sorted(shown)))


trio.run(main)
