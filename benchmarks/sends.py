"""What one Python client reaches through a real node: batches, reading back, and tasks that each await one send."""

import asyncio
import time

import trio

import dduomq
from benchmarks.harness import NodeProcess, Results, node, percentile

BATCH_BYTES = 1_000_000
WARM_UP_S = 0.5


async def _batches(address: str, value_bytes: int, seconds: float, in_flight: int) -> float:
    """Records a second, sent in batches of about a megabyte with a few under way."""
    value = b"x" * value_bytes
    values = [value] * (BATCH_BYTES // (value_bytes + 12))
    sent = 0
    deadline = 0.0

    async def work(mq: dduomq.Client, partition: int) -> None:
        nonlocal sent
        while trio.current_time() < deadline:
            await mq.send_batch("batches", values, partition=partition)
            sent += len(values)

    async with dduomq.connect(address) as mq:
        await mq.admin.create_topic("batches", partitions=in_flight)
        begun = trio.current_time()
        deadline = begun + seconds
        async with trio.open_nursery() as nursery:
            for partition in range(in_flight):
                nursery.start_soon(work, mq, partition)
        return sent / (trio.current_time() - begun)


async def _read_back(address: str) -> float:
    """Records a second, the whole topic through one reader."""
    count = 0
    async with dduomq.connect(address) as mq:
        begun = trio.current_time()
        async with mq.reader("batches", wait=0.0) as reader:
            while records := await reader.fetch():
                count += len(records)
        return count / (trio.current_time() - begun)


async def _one_by_one(address: str, tasks: int, seconds: float, partitions: int = 1) -> tuple[float, list[float]]:
    """(acknowledged records a second, latencies in ms) of `tasks`, each awaiting one send after another."""
    value = b"x" * 100
    latencies: list[float] = []
    topic = f"single-{tasks}-{partitions}-{time.monotonic_ns()}"
    begun = deadline = 0.0

    async def work(mq: dduomq.Client, number: int) -> None:
        while (now := time.perf_counter()) < deadline:
            await mq.send(topic, value, partition=number % partitions)
            if now > begun:
                latencies.append((time.perf_counter() - now) * 1000)

    async with dduomq.connect(address) as mq:
        await mq.admin.create_topic(topic, partitions=partitions)
        begun = time.perf_counter() + WARM_UP_S
        deadline = begun + seconds
        async with trio.open_nursery() as nursery:
            for number in range(tasks):
                nursery.start_soon(work, mq, number)
        return len(latencies) / (time.perf_counter() - begun), latencies


def run(results: Results, *, quick: bool) -> None:
    seconds = 1.5 if quick else 5.0
    for level in ("pagecache", "fsync", "flushed"):
        with node("--set", f"topic.durability={level}") as running:
            _throughput(results, running, level, seconds)
            _latency(results, running, level, seconds)
            if level == "fsync":
                _curve(results, running, seconds)


def _throughput(results: Results, running: NodeProcess, level: str, seconds: float) -> None:
    for value_bytes in (100, 1024):
        goal = ">= 300,000" if (level, value_bytes) == ("pagecache", 100) else ""
        cpu = running.cpu_s()
        rate = trio.run(_batches, running.address, value_bytes, seconds, 4)
        results.add("batches", f"{level}, {value_bytes} B", rate, "records/s", goal=goal)
        results.add("batches", f"{level}, {value_bytes} B, node CPU", (running.cpu_s() - cpu) / seconds * 100, "%")
        if value_bytes == 100:
            back = trio.run(_read_back, running.address)
            results.add("read back", f"{level}, 100 B", back, "records/s", goal=">= 500,000")
        asyncio.run(_forget(running.address))


async def _forget(address: str) -> None:
    async with dduomq.connect(address) as mq:
        await mq.admin.delete_topic("batches")


GOALS = {
    ("pagecache", 10): ">= 20,000",
    ("fsync", 10): ">= 10,000",
    ("fsync", 100): ">= 30,000",
}


def _latency(results: Results, running: NodeProcess, level: str, seconds: float) -> None:
    for tasks in (1, 10, 100):
        rate, latencies = trio.run(_one_by_one, running.address, tasks, seconds)
        results.add("send", f"{level}, {tasks} tasks", rate, "records/s", goal=GOALS.get((level, tasks), ""))
        goal = "< 1" if (level, tasks) == ("fsync", 1) else ""
        results.add("send", f"{level}, {tasks} tasks, p50", percentile(latencies, 0.5), "ms", goal=goal)
        results.add("send", f"{level}, {tasks} tasks, p99", percentile(latencies, 0.99), "ms")


def _curve(results: Results, running: NodeProcess, seconds: float) -> None:
    """Durable sends over 1, 10 and 100 partitions, a hundred tasks."""
    for partitions in (1, 10, 100):
        rate, latencies = trio.run(_one_by_one, running.address, 100, seconds, partitions)
        p50 = round(percentile(latencies, 0.5), 3)
        results.add("durable curve", f"100 tasks, {partitions} partitions", rate, "records/s", p50_ms=p50)
