"""Delayed messages: what a million of them cost, how punctual they are, how long a restart takes."""

import tempfile
import time
from functools import partial
from random import Random

import trio

import dduomq
from benchmarks.harness import NodeProcess, Results, node, percentile, start_node

MESSAGES = 1_000_000
AT_ONCE = 20_000
BATCH = 2_000
PARTITIONS = 4
YEAR_MS = 365 * 86_400_000
RATE = 1_000
TIMEOUT_S = 300


def run(results: Results, *, quick: bool) -> None:
    _many(results, MESSAGES // 10 if quick else MESSAGES)
    with node() as running:
        for beforehand in (True, False):
            trio.run(partial(_punctual, running.address, results, 5 if quick else 15, beforehand=beforehand))


def _many(results: Results, count: int) -> None:
    """A year's worth, and among them as many as `AT_ONCE` for one second; SIGKILL in between."""
    with tempfile.TemporaryDirectory(prefix="dduomq-bench-") as data:
        running = start_node(data)
        due_ms = int(time.time() * 1000) + (60_000 + count // 10)
        try:
            before = running.memory_mib()
            begun = time.perf_counter()
            trio.run(_park, running.address, count, due_ms)
            results.add("delays", "parked, 100 B, fsync", count / (time.perf_counter() - begun), "records/s")
            growth = running.memory_mib() - before
            results.add("delays", f"memory for {count:,} that wait", growth, "MiB", goal="< 150 for a million")
        finally:
            running.process.kill()
            running.process.wait()
        _again(results, data, count, due_ms)


def _again(results: Results, data: str, count: int, due_ms: int) -> None:
    begun = time.perf_counter()
    running = start_node(data)
    try:
        trio.run(_wait_for_count, running.address, count)
        seconds = time.perf_counter() - begun
        results.add("delays", f"recovery after SIGKILL with {count:,}", seconds, "s", goal="< 10 for a million")
        results.add("delays", "memory of the node then", running.memory_mib(), "MiB")
        trio.run(_at_once, running, results, due_ms)
    finally:
        running.stop()


async def _park(address: str, count: int, due_ms: int) -> None:
    rng = Random(1)
    now_ms = int(time.time() * 1000)
    at_once = set(rng.sample(range(count), AT_ONCE))
    async with dduomq.connect(address) as mq:
        await mq.admin.create_topic("t", partitions=PARTITIONS)

        async def send(partition: int) -> None:
            for first in range(partition * BATCH, count, PARTITIONS * BATCH):
                messages = [
                    dduomq.Message(
                        b"x" * 100,
                        deliver_at=due_ms + number % 1_000
                        if number in at_once
                        else now_ms + 3_600_000 + rng.randrange(YEAR_MS),
                    )
                    for number in range(first, first + BATCH)
                ]
                await mq.send_batch("t", messages, partition=partition)

        async with trio.open_nursery() as nursery:
            for partition in range(PARTITIONS):
                nursery.start_soon(send, partition)


async def _wait_for_count(address: str, count: int) -> None:
    with trio.fail_after(TIMEOUT_S):
        async with dduomq.connect(address) as mq:
            while await mq.admin.count_delayed() < count:  # noqa: ASYNC110  # it is another process
                await trio.sleep(0.02)


async def _at_once(running: NodeProcess, results: Results, due_ms: int) -> None:
    """From the beginning of the second in which they fall due until all have come."""
    early = seen = 0
    with trio.fail_after(TIMEOUT_S):
        async with dduomq.connect(running.address) as mq, mq.reader("t", start="latest") as reader:
            left = due_ms / 1000 - time.time()
            results.add("delays", "seconds left before they fall due", left, "s", goal="> 0")
            async for record in reader:
                seen += 1
                early += time.time() * 1000 < int(record.header("dduomq-delayed-until") or 0)
                if seen == AT_ONCE:
                    break
    seconds = time.time() - due_ms / 1000
    results.add(
        "delays", f"{AT_ONCE:,} of one second, all here", seconds, "s after it begins", goal="< 2 after its end"
    )
    results.add("delays", "of them early", early, "records", goal="0")


async def _punctual(address: str, results: Results, seconds: int, *, beforehand: bool) -> None:
    """A thousand fall due each second: parked in batches beforehand, or one by one meanwhile."""
    late: list[float] = []
    rng = Random(2)
    count = seconds * RATE
    topic = "before" if beforehand else "meanwhile"

    async def park(mq: dduomq.Client) -> None:
        first_ms = int(time.time() * 1000) + 5_000
        for partition in range(PARTITIONS):
            due = [dduomq.Message(b"x" * 100, deliver_at=first_ms + n) for n in range(partition, count, PARTITIONS)]
            for at in range(0, len(due), BATCH):
                await mq.send_batch(topic, due[at : at + BATCH], partition=partition)

    async def send(mq: dduomq.Client, number: int) -> None:
        await mq.send(topic, b"x" * 100, delay=rng.uniform(0.05, 3.0), partition=number % PARTITIONS)

    async def produce(mq: dduomq.Client) -> None:
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(count):
                await trio.sleep_until(begun + number / RATE)
                nursery.start_soon(send, mq, number)

    async with dduomq.connect(address) as mq, dduomq.connect(address) as other:
        await mq.admin.create_topic(topic, partitions=PARTITIONS)
        async with other.reader(topic) as reader, trio.open_nursery() as nursery:
            nursery.start_soon(park if beforehand else produce, mq)
            with trio.fail_after(TIMEOUT_S):
                async for record in reader:
                    late.append(time.time() * 1000 - int(record.header("dduomq-delayed-until") or 0))
                    if len(late) == count:
                        break
    how = f"at {RATE:,}/s, parked {'beforehand' if beforehand else 'one by one meanwhile'}"
    results.add("delays", f"late {how}, p50", percentile(late, 0.5), "ms", goal="< 5")
    results.add("delays", f"late {how}, p99", percentile(late, 0.99), "ms", goal="< 50")
    results.add("delays", f"early {how}", sum(one < 0 for one in late), "records", goal="0")
