"""Three nodes on one machine: how long a producer waits when a leader dies, what three replicas cost, many partitions.

The nodes share the machine's cores and its disk, which three machines would not: the share of a single node's rate that
the cluster reaches is a lower bound. All figures of one run are taken in that run.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

import dduomq
from benchmarks.harness import NodeProcess, Results, node, percentile
from benchmarks.sends import _batches, _one_by_one
from dduomq.errors import DduomqError

NODES = 3
READY_S = 120.0
SETTLE_S = 3.0
LOOK_S = 0.05
PER_TOPIC = 1_000


class Cluster:
    """Node processes whose logs go to files, so that they never wait for a reader."""

    def __init__(self, folder: str, *options: str) -> None:
        self._folder = folder
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(NODES)]
        self.ports = {at + 1: one.getsockname()[1] for at, one in enumerate(sockets)}
        for one in sockets:
            one.close()
        self._peers = ",".join(f"{at}@127.0.0.1:{port}" for at, port in self.ports.items())
        self._options = options
        self.nodes: dict[int, NodeProcess] = {}
        self.start(*self.ports)

    @property
    def addresses(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self.ports.values())

    def start(self, *node_ids: int) -> None:
        """Begin all of them, then wait until they serve."""
        begun = time.perf_counter()
        for node_id in node_ids:
            log = Path(self._folder) / f"n{node_id}.log"
            log.unlink(missing_ok=True)
            command = [sys.executable, "-m", "dduomq.run", "dduomq.node", "--id", str(node_id), "--peers", self._peers]
            command += ["--data", f"{self._folder}/n{node_id}", "--listen", f"127.0.0.1:{self.ports[node_id]}"]
            with log.open("wb") as out:
                process = subprocess.Popen([*command, "--log-format", "json", *self._options], stderr=out)
            self.nodes[node_id] = NodeProcess(f"127.0.0.1:{self.ports[node_id]}", process, self._folder, 0.0)
        for node_id in node_ids:
            while not self._is_ready(node_id):
                if time.perf_counter() - begun > READY_S:
                    raise RuntimeError(f"node {node_id} did not become ready")
                time.sleep(0.02)

    def _is_ready(self, node_id: int) -> bool:
        return any(event.get("event") == "node_ready" for event in self.events(node_id))

    def events(self, node_id: int) -> list[dict[str, object]]:
        """What a node has logged since its start."""
        lines = (Path(self._folder) / f"n{node_id}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def metadata_leader(self) -> int:
        """The node that leads the quorum, as the newest of their logs says."""
        found = [
            event for node_id in self.nodes for event in self.events(node_id) if event["event"] == "metadata_leader"
        ]
        newest = max(found, key=lambda event: (int(str(event["term"])), str(event["timestamp"])))
        return int(str(newest["node"]))

    def kill(self, node_id: int) -> None:
        self.nodes[node_id].process.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        for running in self.nodes.values():
            with suppress(ProcessLookupError):
                running.process.kill()
            running.process.wait()


@contextmanager
def cluster(*options: str) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="dduomq-bench-", dir=os.environ.get("DDUOMQ_BENCH_DIR")) as folder:
        running = Cluster(folder, *options)
        try:
            yield running
        finally:
            running.stop()


# --- how long a producer waits ------------------------------------------------------------------------


async def _leaders(mq: dduomq.Client, topic: str) -> dict[int, int]:
    return {place.partition: place.leader for place in await mq.admin.partition_places([topic])}


async def _gap(running: Cluster, *, is_controller: bool) -> float:
    """Seconds between the last ack before a leader's death and the first one after it."""
    topic = f"failover-{time.monotonic_ns()}"
    acked: list[float] = []

    async def send(mq: dduomq.Client, partition: int) -> None:
        while True:
            with suppress(DduomqError):
                await mq.send(topic, b"x" * 100, partition=partition)
                acked.append(time.perf_counter())

    async with dduomq.connect(running.addresses) as mq:
        await mq.admin.create_topic(topic, partitions=NODES, replication=NODES, config={"min.insync.replicas": "2"})
        controller = (await mq.admin.cluster_status()).controller
        leaders = await _leaders(mq, topic)
        victim = controller if is_controller else next(at for at in leaders.values() if at != controller)
        partition = next(at for at, leader in leaders.items() if leader == victim)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, mq, partition)
            await trio.sleep(1.0)
            running.kill(victim)
            died = time.perf_counter()
            await trio.sleep(0.1)
            while not acked or acked[-1] < died + 0.1:  # noqa: ASYNC110  # seen from outside
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    after = min(at for at in acked if at > died + 0.1)
    before = max(at for at in acked if at < after)
    await trio.to_thread.run_sync(running.nodes[victim].process.wait)
    await trio.to_thread.run_sync(running.start, victim)
    await trio.sleep(SETTLE_S)
    return after - before


def _failover(results: Results, running: Cluster, tries: int) -> None:
    for is_controller, name in ((False, "leader"), (True, "leader and controller")):
        gaps = []
        has_quorum = 0
        for _ in range(tries):
            if is_controller:
                has_quorum += trio.run(_is_both, running)
            gaps.append(trio.run(lambda is_controller=is_controller: _gap(running, is_controller=is_controller)))
        also = {"also led the quorum": has_quorum} if is_controller else {}
        results.add("failover", f"SIGKILL of a {name}, median", percentile(gaps, 0.5), "s", tries=tries, **also)
        results.add("failover", f"SIGKILL of a {name}, worst", max(gaps), "s")


async def _is_both(running: Cluster) -> bool:
    async with dduomq.connect(running.addresses) as mq:
        return (await mq.admin.cluster_status()).controller == running.metadata_leader()


# --- what three replicas cost -------------------------------------------------------------------------


def _compare(results: Results, running: Cluster, alone: NodeProcess, seconds: float) -> None:
    for tasks in (1, 100):
        one, one_ms = trio.run(_one_by_one, alone.address, tasks, seconds)
        three, three_ms = trio.run(_one_by_one, running.addresses, tasks, seconds)
        results.add("three replicas", f"fsync, {tasks} tasks", three, "records/s", alone=round(one))
        results.add("three replicas", f"fsync, {tasks} tasks, of a node alone", three / one, "x")
        p50, p50_alone = percentile(three_ms, 0.5), percentile(one_ms, 0.5)
        results.add("three replicas", f"fsync, {tasks} tasks, p50", p50, "ms", alone=round(p50_alone, 3))
    one = trio.run(_batches, alone.address, 100, seconds, 4)
    three = trio.run(_batches, running.addresses, 100, seconds, 4)
    results.add("three replicas", "batches of 100 B records", three, "records/s", alone=round(one))
    results.add("three replicas", "batches of 100 B records, of a node alone", three / one, "x")


# --- many partitions ----------------------------------------------------------------------------------


async def _until_led(mq: dduomq.Client, topics: list[str], without: int = -1) -> float:
    """Wait until all partitions have a leader, which is not `without`; the seconds since this began."""
    begun = time.perf_counter()
    while True:
        with suppress(DduomqError):
            places = await mq.admin.partition_places(topics)
            if len(places) == PER_TOPIC * len(topics) and all(place.leader not in {-1, without} for place in places):
                return time.perf_counter() - begun
        await trio.sleep(LOOK_S)


async def _many(results: Results, running: Cluster, count: int) -> None:
    topics = [f"many-{at}" for at in range(count // PER_TOPIC)]
    name = f"{count:,} partitions of {NODES} replicas"
    before = [at.memory_mib() for at in running.nodes.values()]
    async with dduomq.connect(running.addresses) as mq:
        begun = time.perf_counter()
        for topic in topics:
            await mq.admin.create_topic(topic, partitions=PER_TOPIC, replication=NODES)
        await _until_led(mq, topics)
        results.add("many partitions", f"{name}: created and led", time.perf_counter() - begun, "s")
        after = [at.memory_mib() for at in running.nodes.values()]
        held = max(b - a for a, b in zip(before, after, strict=True)) * 1024 / count
        results.add("many partitions", f"{name}: memory of a replica", held, "KiB", most_mib=round(max(after)))
        await trio.sleep(SETTLE_S)
        cpu = [at.cpu_s() for at in running.nodes.values()]
        await trio.sleep(5.0)
        idle = max(b.cpu_s() - a for a, b in zip(cpu, running.nodes.values(), strict=True)) / 5.0 * 100
        results.add("many partitions", f"{name}: CPU of an idle node, at most", idle, "%")
        victim = (await mq.admin.cluster_status()).controller
        running.kill(victim)
    async with dduomq.connect(running.addresses) as mq:
        results.add("many partitions", f"{name}: all led again after the controller's death",
                    await _until_led(mq, topics, victim), "s")  # fmt: skip


def run(results: Results, *, quick: bool) -> None:
    with cluster() as running:
        _failover(results, running, 2 if quick else 5)
    with cluster() as running, node() as alone:
        _compare(results, running, alone, 1.5 if quick else 5.0)
    with cluster() as running:
        trio.run(_many, results, running, PER_TOPIC if quick else 10 * PER_TOPIC)
