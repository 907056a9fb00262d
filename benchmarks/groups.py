"""Groups: how fast one member is pushed to, how soon, what a rebalance costs the others, how long a restart takes."""

import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack

import trio

import dduomq
from benchmarks.harness import Results, node, percentile, start_node
from dduomq.client.group import Consumer
from dduomq.wire.native_groups import CommitOffsets, CommitPart

RECORDS = 1_000_000
VALUES_PER_BATCH = 8_000
RATE = 1_000
MEMBERS = 100
PARTITIONS = 1_000
CONNECTIONS = 10
TICK_S = 0.5
GROUPS = 10_000
SESSION_S = 6.0
TIMEOUT_S = 120


def run(results: Results, *, quick: bool) -> None:
    with node("--set", "topic.durability=pagecache") as running:
        trio.run(_pushed, running.address, results, RECORDS // 5 if quick else RECORDS)
    with node() as running:
        trio.run(_latency, running.address, results, 2_000 if quick else 10_000)
    with node("--set", "topic.durability=pagecache") as running:
        trio.run(_rebalance, running.address, results)
    _replay(results, GROUPS // 10 if quick else GROUPS)


async def _pushed(address: str, results: Results, records: int) -> None:
    """One consumer, one partition, auto-commit."""
    async with dduomq.connect(address) as mq:
        await mq.admin.create_topic("t", partitions=1)
        for _ in range(records // VALUES_PER_BATCH):
            await mq.send_batch("t", [b"x" * 100] * VALUES_PER_BATCH, partition=0)
        async with mq.consumer("t", group="g") as consumer:
            begun, count = time.perf_counter(), 0
            async for _ in consumer:
                count += 1
                if count == records // VALUES_PER_BATCH * VALUES_PER_BATCH:
                    break
            seconds = time.perf_counter() - begun
    results.add("groups", "pushed to one member, 100 B", count / seconds, "records/s", goal=">= 150,000")


async def _latency(address: str, results: Results, records: int) -> None:
    """From `send` to the handler, durable (fsync), a thousand a second."""
    late: list[float] = []

    async def produce(mq: dduomq.Client) -> None:
        begun = trio.current_time()
        for number in range(records):
            await trio.sleep_until(begun + number / RATE)
            await mq.send_async("l", str(time.perf_counter_ns()), partition=0)

    async with dduomq.connect(address) as mq, dduomq.connect(address) as other, trio.open_nursery() as nursery:
        await mq.admin.create_topic("l", partitions=1)
        async with other.consumer("l", group="g") as consumer:
            nursery.start_soon(produce, mq)
            async for record in consumer:
                late.append((time.perf_counter_ns() - int(record.raw_value)) / 1e6)
                if len(late) == records:
                    break
    results.add("groups", f"send to handler at {RATE}/s, fsync, p50", percentile(late, 0.5), "ms", goal="< 2")
    results.add("groups", f"send to handler at {RATE}/s, fsync, p99", percentile(late, 0.99), "ms")


class _Crowd:
    """Many members in this process, and when each partition's records came."""

    def __init__(self) -> None:
        self.consumers: list[Consumer] = []
        self.late_ms: dict[int, float] = {}

    async def follow(self, consumer: Consumer) -> None:
        async for record in consumer:
            late = (time.perf_counter_ns() - int(record.raw_value)) / 1e6
            self.late_ms[record.partition] = max(self.late_ms.get(record.partition, 0.0), late)

    def readers(self) -> dict[int, Consumer]:
        return {at: consumer for consumer in self.consumers for _, at in consumer.assignment}

    def shared_out(self) -> int:
        return sum(len(consumer.assignment) for consumer in self.consumers)

    async def until_shared_out(self) -> float:
        """Seconds until every partition has a reader again."""
        begun = time.perf_counter()
        with trio.fail_after(TIMEOUT_S):
            while self.shared_out() < PARTITIONS:  # noqa: ASYNC110  # it is what is measured
                await trio.sleep(0.005)
        return time.perf_counter() - begun


async def _rebalance(address: str, results: Results) -> None:
    crowd = _Crowd()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(dduomq.connect(address)) for _ in range(CONNECTIONS)]
        nursery = await stack.enter_async_context(trio.open_nursery())
        await clients[0].admin.create_topic("t", partitions=PARTITIONS)
        leave, left = trio.Event(), trio.Event()

        async def member(number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with clients[number % CONNECTIONS].consumer("t", group="g") as consumer, trio.open_nursery() as own:
                crowd.consumers.append(consumer)
                own.start_soon(crowd.follow, consumer)
                task_status.started()
                if number == 0:
                    await leave.wait()
                    own.cancel_scope.cancel()
                else:
                    await trio.sleep_forever()
            left.set()

        begun = time.perf_counter()
        for number in range(MEMBERS):
            await nursery.start(member, number)
        await crowd.until_shared_out()
        seconds = time.perf_counter() - begun
        results.add("groups", f"{MEMBERS} members join, {PARTITIONS} partitions", seconds, "s")
        nursery.start_soon(_trickle, clients[0])
        await trio.sleep(10 * TICK_S)
        crowd.late_ms.clear()
        await trio.sleep(3 * TICK_S)
        results.add("groups", "nobody comes or goes: latest record", max(crowd.late_ms.values()), "ms")

        before, first = crowd.readers(), crowd.consumers[0]
        crowd.late_ms.clear()
        leave.set()
        crowd.consumers.remove(first)
        seconds = await crowd.until_shared_out()
        results.add("groups", "a member says good-bye: all is read again after", seconds, "s", goal="< 1")
        await trio.sleep(3 * TICK_S)
        _gaps(results, crowd, before, first, "says good-bye")

        await _killed(results, address, crowd)
        nursery.cancel_scope.cancel()


async def _killed(results: Results, address: str, crowd: _Crowd) -> None:
    """One more member, in a process of its own, that is killed: after its session its part goes to the others."""
    script = (
        "import anyio, dduomq\n"
        "async def main():\n"
        f"    async with dduomq.connect({address!r}) as mq:\n"
        f"        async with mq.consumer('t', group='g', session_timeout={SESSION_S}) as consumer:\n"
        "            async for _ in consumer: pass\n"
        "anyio.run(main, backend='trio')\n"
    )
    process = subprocess.Popen(  # noqa: ASYNC220  # it does not block
        [sys.executable, "-c", script]
    )
    try:
        with trio.fail_after(TIMEOUT_S):
            while crowd.shared_out() > PARTITIONS - PARTITIONS // MEMBERS:  # noqa: ASYNC110  # it is what is measured
                await trio.sleep(0.05)
        await trio.sleep(4)
        before = crowd.readers()
        crowd.late_ms.clear()
        process.send_signal(signal.SIGKILL)
        seconds = await crowd.until_shared_out()
        results.add(
            "groups", f"a member is killed (session {SESSION_S:.0f} s): all is read again after", seconds, "s",
            goal=f"< {SESSION_S + 1:.0f}",
        )  # fmt: skip
        await trio.sleep(3 * TICK_S)
        _gaps(results, crowd, before, None, "is killed")
    finally:
        process.kill()
        process.wait()


def _gaps(results: Results, crowd: _Crowd, before: dict[int, Consumer], gone: Consumer | None, what: str) -> None:
    """How late records of partitions came that did not move."""
    after = crowd.readers()
    stayed = [at for at, consumer in before.items() if consumer is not gone and after.get(at) is consumer]
    late = max(crowd.late_ms.get(at, 0.0) for at in stayed)
    results.add("groups", f"a member {what}: latest record of the {len(stayed)} that stay", late, "ms")


async def _trickle(mq: dduomq.Client) -> None:
    """A record to every partition, again and again."""
    while True:
        begun = trio.current_time()
        for partition in range(PARTITIONS):
            await mq.send_async("t", str(time.perf_counter_ns()), partition=partition)
            if partition % 50 == 0:
                await trio.sleep(TICK_S / 25)
        await trio.sleep_until(begun + TICK_S)


def _replay(results: Results, groups: int) -> None:
    """From the start of the process until every group is known again."""
    with node() as running:
        trio.run(_commit_all, running.address, groups)
        running.process.kill()
        running.process.wait()
        again = start_node(running.data_dir)
        try:
            begun = time.perf_counter()
            found = trio.run(_count, again.address)
            seconds = again.ready_s + time.perf_counter() - begun
            results.add("groups", f"restart after SIGKILL with {found} groups", seconds, "s", goal="< 5")
            results.add("groups", "memory of the node then", again.memory_mib(), "MiB")
        finally:
            again.stop()


async def _commit_all(address: str, groups: int) -> None:
    parts = tuple(CommitPart("t", at, 0) for at in range(4))
    async with dduomq.connect(address) as mq:
        await mq.admin.create_topic("t", partitions=4)
        await mq.admin.list_groups()
        limit = trio.CapacityLimiter(64)

        async def commit(number: int) -> None:
            async with limit:
                await mq._wire.ask(CommitOffsets(f"group-{number}", "", -1, parts), 30_000)

        async with trio.open_nursery() as nursery:
            for number in range(groups):
                nursery.start_soon(commit, number)


async def _count(address: str) -> int:
    async with dduomq.connect(address) as mq:
        return len(await mq.admin.list_groups())
