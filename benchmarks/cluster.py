"""Clusters of three nodes on this machine: what replicas cost, how long a death is felt, what many partitions take."""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

import dduomq
from benchmarks.harness import READY_TIMEOUT_S, NodeProcess, Results, node, percentile

VALUE = b"x" * 100
BATCH = 1_000
SENDERS = 4
MIB = 1024 * 1024
TIMEOUT_S = 600
CATCH_UP_BYTES = 20_000_000  # a second


@attrs.define
class Nodes:
    """The processes by their numbers, and what starts them."""

    folder: str
    peers: dict[int, int]
    running: dict[int, NodeProcess] = attrs.field(factory=dict)

    @property
    def addresses(self) -> str:
        return ",".join(f"127.0.0.1:{self.peers[number]}" for number in sorted(self.running))

    def begin(self, numbers: list[int], *options: str) -> None:
        """Start these, and wait until all are ready."""
        begun = time.perf_counter()
        processes = {number: self._spawn(number, *options) for number in numbers}
        for number, process in processes.items():
            _await_ready(process)
            address = f"127.0.0.1:{self.peers[number]}"
            data = f"{self.folder}/{number}"
            self.running[number] = NodeProcess(address, process, data, time.perf_counter() - begun)

    def _spawn(self, number: int, *options: str) -> subprocess.Popen[bytes]:
        peers = ",".join(f"{at}@127.0.0.1:{port}" for at, port in self.peers.items())
        command = [sys.executable, "-m", "dduomq.run", "dduomq.node", "--id", str(number), "--peers", peers]
        command += ["--data", f"{self.folder}/{number}", "--log-format", "json", *options]
        return subprocess.Popen(command, stderr=(Path(self.folder) / f"{number}.log").open("wb"))

    def kill(self, number: int) -> None:
        gone = self.running.pop(number)
        gone.process.send_signal(signal.SIGKILL)
        gone.process.wait()


def _await_ready(process: subprocess.Popen[bytes]) -> None:
    """By its log, which is a file, so that nobody has to empty a pipe."""
    path = Path(f"/proc/{process.pid}/fd/2").resolve()
    deadline = time.perf_counter() + READY_TIMEOUT_S
    while time.perf_counter() < deadline:
        lines = [line for line in path.read_text().splitlines() if line.startswith("{")]
        if any(json.loads(line).get("event") == "node_ready" for line in lines):
            return
        time.sleep(0.05)
    raise RuntimeError(f"a node did not become ready: {path.read_text()[-500:]}")


@contextmanager
def cluster(count: int = 3, *, spare: int = 0) -> Iterator[Nodes]:
    """`count` nodes that run; `spare`: so many more are named as peers and not started."""
    sockets = [socket.socket() for _ in range(count + spare)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    peers = {at: sock.getsockname()[1] for at, sock in enumerate(sockets, 1)}
    for sock in sockets:
        sock.close()
    with tempfile.TemporaryDirectory(prefix="dduomq-bench-") as folder:
        nodes = Nodes(folder, peers)
        try:
            nodes.begin(list(peers)[:count])
            yield nodes
        finally:
            for one in nodes.running.values():
                one.process.send_signal(signal.SIGTERM)
            for one in nodes.running.values():
                one.stop()


def run(results: Results, *, quick: bool) -> None:
    with node() as alone:
        single = trio.run(_throughput, alone.address, 3 if quick else 10)
    with cluster() as nodes:
        shared = trio.run(_throughput, nodes.addresses, 3 if quick else 10)
    results.add("cluster", "sent to a node alone, 100 B, fsync", single, "records/s")
    results.add("cluster", "sent to 3 replicas, acks=all, fsync", shared, "records/s")
    results.add("cluster", "share of that of a node alone", shared / single, "", goal=">= 0.3, better 0.5")
    trio.run(_deaths, results)
    trio.run(_partitions, results, 1_000 if quick else 10_000)
    trio.run(_move, results, (256 if quick else 10 * 1024) * MIB)


# --- what replicas cost -----------------------------------------------------------------------------


async def _throughput(address: str, seconds: float) -> float:
    """Batches of 1,000 from four tasks, each to a partition of its own."""
    sent = 0

    async def send(mq: dduomq.Client, partition: int) -> None:
        nonlocal sent
        while True:
            await mq.send_batch("t", [VALUE] * BATCH, partition=partition)
            sent += BATCH

    async with dduomq.connect(address) as mq:
        await mq.admin.create_topic("t", partitions=SENDERS)
        async with trio.open_nursery() as nursery:
            for at in range(SENDERS):
                nursery.start_soon(send, mq, at)
            await trio.sleep(1)
            before, begun = sent, time.perf_counter()
            await trio.sleep(seconds)
            rate = (sent - before) / (time.perf_counter() - begun)
            nursery.cancel_scope.cancel()
    return rate


# --- how long a death is felt -----------------------------------------------------------------------


async def _deaths(results: Results) -> None:
    """The longest that a producer waits for one ack, when the controller is killed, and when another node is."""
    for victim in ("the controller", "another node"):
        with cluster() as nodes:
            async with dduomq.connect(nodes.addresses, delivery_timeout=60) as mq:
                await mq.admin.create_topic("t", partitions=3)
                waits: list[float] = []
                async with trio.open_nursery() as nursery:
                    for at in range(3):
                        nursery.start_soon(_send_one_by_one, mq, at, waits)
                    await trio.sleep(2)
                    status = await mq.admin.cluster_status()
                    others = [number for number in nodes.running if number != status.controller]
                    before, waits[:] = percentile(waits, 0.99), []
                    nodes.kill(status.controller if victim == "the controller" else others[0])
                    await trio.sleep(6)
                    nursery.cancel_scope.cancel()
        results.add(
            "cluster", f"SIGKILL of {victim}: the longest that acks=all waited", max(waits), "s", goal="< 2",
            p99_before_s=round(before, 4),
        )  # fmt: skip


async def _send_one_by_one(mq: dduomq.Client, partition: int, waits: list[float]) -> None:
    while True:
        begun = time.perf_counter()
        await mq.send("t", VALUE, partition=partition)
        waits.append(time.perf_counter() - begun)
        await trio.sleep(0.005)


# --- many partitions --------------------------------------------------------------------------------


async def _partitions(results: Results, count: int) -> None:
    """Made, led, and led by others when a node dies."""
    with cluster() as nodes:
        async with dduomq.connect(nodes.addresses, request_timeout=60) as mq:
            begun = time.perf_counter()
            for at in range(count // 100):
                await mq.admin.create_topic(f"t{at}", partitions=100)
            results.add("cluster", f"{count:,} partitions of 3 replicas made", time.perf_counter() - begun, "s")
            memory = max(one.memory_mib() for one in nodes.running.values())
            results.add("cluster", "memory of a node that keeps them all", memory, "MiB")
            before = await trio.to_thread.run_sync(lambda: [one.cpu_s() for one in nodes.running.values()])
            await trio.sleep(5)
            after = [one.cpu_s() for one in nodes.running.values()]
            idle = max(b - a for a, b in zip(before, after, strict=True)) / 5
            results.add("cluster", "processor that such a node takes at rest", idle * 100, "%")
            status = await mq.admin.cluster_status()
            victim = next(one.node_id for one in status.nodes if one.node_id != status.controller)
            led = next(one.leaders for one in status.nodes if one.node_id == victim)
            begun = time.perf_counter()
            nodes.kill(victim)
            await _until(mq, lambda found: all(one.leaders == 0 for one in found.nodes if one.node_id == victim))
            took = time.perf_counter() - begun
            results.add("cluster", f"SIGKILL of one: all {led:,} that it led are led by others", took, "s")


async def _until(mq: dduomq.Client, is_so: Callable[..., bool]) -> None:
    with trio.fail_after(TIMEOUT_S):
        while not is_so(await mq.admin.cluster_status()):  # noqa: ASYNC110  # it is seen from outside
            await trio.sleep(0.1)


# --- a node more ------------------------------------------------------------------------------------


async def _move(results: Results, size: int) -> None:
    """A fourth node comes, and is given a third of all partitions, from each leader, while producers go on."""
    partitions, moved = 12, (0, 3, 4, 8)
    with cluster(spare=1) as nodes:
        async with dduomq.connect(nodes.addresses, delivery_timeout=60, request_timeout=60) as mq:
            await mq.admin.create_topic("t", partitions=partitions, replication=1)
            await _fill(mq, partitions, size)
            waits: list[float] = []
            async with trio.open_nursery() as nursery:
                for at in range(3):
                    nursery.start_soon(_send_one_by_one, mq, at, waits)
                await trio.sleep(20)
                before, waits[:] = percentile(waits, 0.99), []
                await trio.to_thread.run_sync(
                    lambda: nodes.begin([4], "--set", f"replication.catch.up.bytes.per.second={CATCH_UP_BYTES}")
                )
                begun = time.perf_counter()
                await _until(mq, lambda found: any(one.node_id == 4 and one.is_alive for one in found.nodes))
                await mq.admin.reassign({("t", at): [4] for at in moved})
                await _until(mq, lambda found: found.moving == 0)
                took, during = time.perf_counter() - begun, percentile(waits, 0.99)
                nursery.cancel_scope.cancel()
    results.add("cluster", f"{size * len(moved) / partitions / MIB:,.0f} MiB moved to a new node", took, "s")
    results.add("cluster", "p99 of acks before", before * 1000, "ms")
    results.add("cluster", "p99 of acks meanwhile", during * 1000, "ms", goal="<= 2 times that before")


async def _fill(mq: dduomq.Client, partitions: int, size: int) -> None:
    values = [b"x" * 1024] * 1_000

    async def send(partition: int) -> None:
        for _ in range(size // partitions // (1024 * 1000)):
            await mq.send_batch("t", values, partition=partition)

    work: Callable[[int], Awaitable[None]] = send
    async with trio.open_nursery() as nursery:
        for at in range(partitions):
            nursery.start_soon(work, at)
