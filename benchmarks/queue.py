"""Queues: how many records a second ten members work off together, on one partition, every word of it synced."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import trio

import dduomq
from benchmarks.harness import Results, node
from dduomq.client.queue import Queue

RECORDS = 300_000
VALUES_PER_BATCH = 1_000
MEMBERS = 10
PREFETCH = 1_000
HANDLERS = 100
TIMEOUT_S = 300


def run(results: Results, *, quick: bool) -> None:
    records = RECORDS // 10 if quick else RECORDS
    with node() as running:
        trio.run(_worked_off, running.address, results, records, "in pulls", _pull)
    with node() as running:
        trio.run(_worked_off, running.address, results, records, "in a loop", _iterate)
    with node() as running:
        trio.run(_worked_off, running.address, results, records // 3, "each acked alone, 100 at once", _one_by_one)


class _Count:
    """Records that are done; `all_done` when they are so many."""

    def __init__(self, wanted: int) -> None:
        self.done = 0
        self.wanted = wanted
        self.all_done = trio.Event()

    def add(self, count: int) -> None:
        self.done += count
        if self.done >= self.wanted:
            self.all_done.set()


async def _pull(queue: Queue, count: _Count) -> None:
    while True:
        count.add(len(await queue.pull(max_records=500)))


async def _iterate(queue: Queue, count: _Count) -> None:
    async for _ in queue:
        count.add(1)


async def _one_by_one(queue: Queue, count: _Count) -> None:
    async def handle(record: dduomq.QueueRecord) -> None:
        await record.ack()
        count.add(1)

    await queue.run(handle, concurrency=HANDLERS)


async def _worked_off(
    address: str, results: Results, records: int, way: str, work: Callable[[Queue, _Count], Awaitable[None]]
) -> None:  # fmt: skip
    """100-byte records that are there already; a connection for each member. It ends when all is acknowledged."""
    count = _Count(records)

    async def member(mq: dduomq.Client) -> None:
        async with mq.queue("t", group="g", prefetch=PREFETCH) as queue, trio.open_nursery() as nursery:
            nursery.start_soon(work, queue, count)
            await count.all_done.wait()
            nursery.cancel_scope.cancel()

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(dduomq.connect(address)) for _ in range(MEMBERS)]
        await clients[0].admin.create_topic("t", partitions=1)
        for _ in range(records // VALUES_PER_BATCH):
            await clients[0].send_batch("t", [b"x" * 100] * VALUES_PER_BATCH, partition=0)
        begun = time.perf_counter()
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as working:
                for mq in clients:
                    working.start_soon(member, mq)
        seconds = time.perf_counter() - begun
        found = await clients[0].admin.describe_queue("g")
        assert found.parts[0].start == records, found
    results.add("queue", f"10 members on 1 partition, {way}, fsync", records / seconds, "records/s", goal=">= 20,000")
