"""Kafka's most used client against the node, and against its own mock cluster in the same run.

The mock lives in librdkafka itself and keeps nothing on disk, so the share of it that the node reaches says how
much the broker costs beside the client. Producer: acks=1; topics with `pagecache`.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.harness import NodeProcess, Results, claim_memory, node, percentile

TOPIC = "bench"
TIMEOUT_S = 120
TRIES = 3
BATCH = 1_000
TOPICS, PARTITIONS = 8, 4
CONNECTIONS = 2_000
HELD_BYTES, OVERHEAD_BYTES = 4_000_000, 20
GIB = 1024**3


def run(results: Results, *, quick: bool) -> None:
    for size, count in ((100, 2_000_000), (1024, 1_000_000)):
        _produce(results, size, count // 10 if quick else count)
        _consume(results, size)
    _cost(results, quick=quick)
    _idle(results)


def _idle(results: Results) -> None:
    """What a connection costs that has said hello and is silent now; how long another one then waits for an answer."""
    hello = bytes.fromhex("0000000e0012000000000001000469646c65")  # ApiVersions v0 of a client "idle"
    with node() as running:
        host, port = running.address.rsplit(":", 1)
        before = running.memory_mib()
        sockets = [socket.create_connection((host, int(port))) for _ in range(CONNECTIONS)]
        for sock in sockets:
            sock.sendall(hello)
            sock.recv(65536)
        held_kib = (running.memory_mib() - before) * 1024 / CONNECTIONS
        waits = []
        for _ in range(200):
            begun = time.perf_counter()
            sockets[0].sendall(hello)
            sockets[0].recv(65536)
            waits.append(time.perf_counter() - begun)
        for sock in sockets:
            sock.close()
    results.add("kafka", f"memory of an idle connection, of {CONNECTIONS}", held_kib, "KiB", goal="< 30")
    results.add("kafka", "answer time beside them, p99", percentile(waits, 0.99) * 1000, "ms")


def _produce(results: Results, size: int, count: int) -> None:
    """The two take turns, so that a noisy machine is noisy for both."""
    ours, theirs = [], []
    for _ in range(TRIES):
        with mock() as address:
            claim_memory()
            theirs.append(produce(address, size, count))
        with node("--set", "topic.durability=pagecache") as running:
            make_topics(running, 1)
            claim_memory()
            ours.append(produce(running.address, size, count))
    _compare(results, f"producer, {size} B", max(ours), max(theirs), ">= 0.65, goal 0.9")


def _consume(results: Results, size: int) -> None:
    """The mock keeps the last 5 MB of a partition only, so many partitions are read."""
    each = HELD_BYTES // (size + OVERHEAD_BYTES)
    ours, theirs = [], []
    for _ in range(TRIES):
        with mock() as address:
            fill(address, size, each)
            theirs.append(consume(address, each))
        with node("--set", "topic.durability=pagecache") as running:
            make_topics(running, TOPICS)
            fill(running.address, size, each)
            ours.append(consume(running.address, each))
    _compare(results, f"consumer, {size} B", max(ours), max(theirs), ">= 0.65")


def _compare(results: Results, what: str, ours: float, theirs: float, goal: str) -> None:
    results.add("kafka", f"{what}, node", ours, "records/s")
    results.add("kafka", f"{what}, librdkafka's mock", theirs, "records/s")
    results.add("kafka", f"{what}, share of the mock", ours / theirs, "", goal=goal)


def _cost(results: Results, *, quick: bool) -> None:
    """The node's CPU for a GiB in batches of 1 MiB; beside it a bare loop from a socket into a file."""
    count = 200_000 if quick else 1_000_000
    gib = count * 1024 / GIB
    results.add("kafka", "bare loop's CPU per GiB", min(bare_cpu_s(1.0) for _ in range(TRIES)), "s")
    for partitions in (1, PARTITIONS):
        produced, consumed = zip(*(_cost_once(count, gib, partitions) for _ in range(TRIES)), strict=True)
        where = "one partition" if partitions == 1 else f"{partitions} partitions"
        results.add("kafka", f"node CPU per GiB produced, {where}", min(produced), "s", goal="< 1.5, goal 0.8")
        results.add("kafka", f"node CPU per GiB consumed, {where}", min(consumed), "s", goal="< 0.6")


def _cost_once(count: int, gib: float, partitions: int) -> tuple[float, float]:
    with node("--set", "topic.durability=pagecache") as running:
        make_topics(running, 1)
        claim_memory()
        before = running.cpu_s()
        produce(running.address, 1024, count, big=True, partitions=partitions)
        between = running.cpu_s()
        consume(running.address, count // partitions, topics=1, partitions=partitions)
        return (between - before) / gib, (running.cpu_s() - between) / gib


def bare_cpu_s(gib: float) -> float:
    """CPU seconds for a GiB from a socket into a file and nothing else, space reserved as the node does."""
    code = (
        "import os,socket,sys,tempfile,time\n"
        "s,_=socket.create_server(('127.0.0.1',int(sys.argv[1]))).accept()\n"
        "f=tempfile.TemporaryFile(); b=bytearray(1<<20); v=memoryview(b); at=filled=0\n"
        "while n:=s.recv_into(v[filled:]):\n"
        "    filled+=n\n"
        "    if filled==len(b):\n"
        "        if at%(64<<20)==0: os.posix_fallocate(f.fileno(),at,64<<20)\n"
        "        os.pwritev(f.fileno(),[b],at); at+=filled; filled=0\n"
        "print(time.process_time())\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", code, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        sock = connect_soon(port)
        piece = bytes(1 << 20)
        for _ in range(int(gib * 1024)):
            sock.sendall(piece)
        sock.close()
        assert receiver.stdout is not None
        return float(receiver.stdout.read()) / gib


def connect_soon(port: int) -> socket.socket:
    """A connection to a process that is just starting."""
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise RuntimeError("nobody listens")


def make_topics(running: NodeProcess, count: int) -> None:
    admin = AdminClient({"bootstrap.servers": running.address})
    for made in admin.create_topics([NewTopic(f"{TOPIC}{at}", PARTITIONS, 1) for at in range(count)]).values():
        made.result(TIMEOUT_S)


@contextmanager
def mock() -> Iterator[str]:
    """A mock cluster of one broker, and its address."""
    owner = Producer({"test.mock.num.brokers": 1})
    broker = next(iter(owner.list_topics(timeout=TIMEOUT_S).brokers.values()))
    yield f"{broker.host}:{broker.port}"
    owner.flush(1)


def produce(address: str, size: int, count: int, *, big: bool = False, partitions: int = 1) -> float:
    """Records a second, from the first call to the last ack."""
    producer = _producer(address, big=big)
    producer.list_topics(f"{TOPIC}0", timeout=TIMEOUT_S)
    value, begun = b"x" * size, time.perf_counter()
    for number in range(count):
        _send(producer, f"{TOPIC}0", number % partitions, value)
    _flush(producer)
    return count / (time.perf_counter() - begun)


def fill(address: str, size: int, each: int) -> None:
    """`each` records for every partition of every topic."""
    producer, value = _producer(address), b"x" * size
    for topic in range(TOPICS):
        for partition in range(PARTITIONS):
            for _ in range(each):
                _send(producer, f"{TOPIC}{topic}", partition, value)
    _flush(producer)


def _producer(address: str, *, big: bool = False) -> Producer:
    options: dict[str, object] = {
        "bootstrap.servers": address, "acks": 1, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 1_000_000,
    }  # fmt: skip
    if big:
        options |= {"batch.size": 1_048_576, "message.max.bytes": 1_048_576, "linger.ms": 50}
    return Producer(options)


def _send(producer: Producer, topic: str, partition: int, value: bytes) -> None:
    while True:
        try:
            producer.produce(topic, value, partition=partition)
            return
        except BufferError:
            producer.poll(0.01)


def _flush(producer: Producer) -> None:
    left = producer.flush(TIMEOUT_S)
    if left:
        raise RuntimeError(f"{left} records were not acknowledged")


def consume(address: str, each: int, *, topics: int = TOPICS, partitions: int = PARTITIONS) -> float:
    """Records a second, from the assignment to the last record."""
    consumer = Consumer(
        {
            "bootstrap.servers": address, "group.id": "bench", "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 10,  # else the client stops for a second whenever it has enough for now
        }
    )  # fmt: skip
    places = [TopicPartition(f"{TOPIC}{topic}", at, 0) for topic in range(topics) for at in range(partitions)]
    left = count = each * len(places)
    begun = time.perf_counter()
    consumer.assign(places)
    while left:
        left -= len(consumer.consume(min(left, BATCH), 1.0))
        if time.perf_counter() - begun > TIMEOUT_S:
            raise RuntimeError(f"{left} of {count} records did not come back")
    seconds = time.perf_counter() - begun
    consumer.close()
    return count / seconds
