"""What stories of delayed messages share: a producer of few words, ways to a wheel, and faults at a chosen moment."""

from contextlib import asynccontextmanager

import trio

from dduomq.actors import wheel_cleaning
from dduomq.actors.wheel_firing import WheelFiring
from dduomq.delay import runs
from dduomq.delay.replay import Replay
from dduomq.errors import DiskFull
from dduomq.testing.disk import SimFiles
from dduomq.wire.batch import NO_PRODUCER_ID, iter_headers, set_producer
from dduomq.wire.compress import Compression
from dduomq.wire.records import BatchBuilder
from tests.listeners.kafka_wire import KafkaWire
from tests.sim.machine import Machine

MIB = 1024 * 1024


@asynccontextmanager
async def one_machine():
    """For nodes that live on it one after another: see `running`."""
    async with trio.open_nursery() as nursery:
        yield Machine(nursery)
        nursery.cancel_scope.cancel()


def kill(machine):
    """The process of the node dies; what it has written stays."""
    machine.platter.kill()
    machine.network.crash()


async def kafka(machine):
    return KafkaWire(await machine.network.dial("sim", 6086))


def wish(value, delay=b"60s"):
    """A record that is to come later."""
    return value, [("dduomq-delay", delay)]


async def produce(wire, machine, records, *, producer=7, sequence=0, topic="t", gzip=False, timestamp_ms=None):
    """One batch of (value, headers); the error code of its answer. Without a producer id none knows it again."""
    now_ms = machine.clock.wall_ms() if timestamp_ms is None else timestamp_ms
    builder = BatchBuilder(Compression.GZIP if gzip else Compression.NONE, bytes_max=100 * MIB)
    for value, headers in records:
        assert builder.append(now_ms, None, value, headers)
    batch = builder.build()
    if producer != NO_PRODUCER_ID:
        set_producer(batch, producer, 0, sequence)
    return await produce_batch(wire, batch, topic)


async def produce_batch(wire, batch, topic="t"):
    data = [{"name": topic, "partition_data": [{"index": 0, "records": bytes(batch)}]}]
    answer = await wire.ask("Produce", 9, acks=-1, timeout_ms=5_000, topic_data=data)
    return answer["responses"][0]["partition_responses"][0]["error_code"]


async def wheel_of(node, topic):
    """The number and the mailbox of the wheel that keeps what is for the first partition of that topic."""
    return await node.services.delays.wheel(node.services.routes.table[topic].record.topic_id, 0)


async def same_wheel(node, mq, topic):
    """Another topic, whose messages the same wheel keeps."""
    number, _ = await wheel_of(node, topic)
    for at in range(100):
        name = f"other-{at}"
        await mq.admin.create_topic(name, partitions=1)
        if (await wheel_of(node, name))[0] == number:
            return name
    raise AssertionError("a hundred topics are on other wheels")


async def wheel_log(node, number):
    """How long a wheel's log is: what its partition says of itself."""
    return (await node.admin.describe("__delay"))[number].log


def wheel_restarts(node):
    """How often wheels have crashed."""
    return sum(status.restarts for status in node.actors() if status.name.startswith("delay-"))


def clean_often(monkeypatch, threshold, piece):
    """A log is cleaned once it has so many bytes more than it needs, in pieces of so many."""
    monkeypatch.setattr(wheel_cleaning, "DELAY_CLEAN_BYTES", threshold)
    monkeypatch.setattr(wheel_cleaning, "PIECE_BYTES", piece)


def fail_write(monkeypatch, *, topic="__delay", which=1):
    """The `which`-th write from now on (from 1) to logs of that topic finds the disk full. The sizes of all writes."""
    plain, sizes = SimFiles.write_at, []

    def write_at(self, path, buffers, position, *, reserve_to=0):
        if f"/{topic}-" in path and path.endswith(".log"):
            sizes.append(sum(len(one) for one in buffers))
            if len(sizes) == which:
                raise DiskFull("full for a moment")
        plain(self, path, buffers, position, reserve_to=reserve_to)

    monkeypatch.setattr(SimFiles, "write_at", write_at)
    return sizes


def crash_once(monkeypatch, owner, name):
    """The next call of that method crashes its actor."""
    plain = getattr(owner, name)

    def crash(self, *_args, **_named):
        monkeypatch.setattr(owner, name, plain)
        raise RuntimeError("a bug in the wheel")

    monkeypatch.setattr(owner, name, crash)


def count_loads(monkeypatch):
    """A list that grows whenever a wheel has read its log."""
    plain, loads = WheelFiring.begin, []

    def begin(self, wheel):
        loads.append(wheel)
        plain(self, wheel)

    monkeypatch.setattr(WheelFiring, "begin", begin)
    return loads


def replayed(machine, number):
    """What a wheel that began just now would find in its log."""
    replay = Replay(machine.clock.wall_ms())
    for path, inode in sorted(machine.platter.files.inodes.items()):
        if f"/__delay-{number}/" in path and path.endswith(".log"):
            data = memoryview(bytearray(inode.content))
            for position, header in iter_headers(data):
                for said in runs.read(data[position : position + header.size]):
                    replay.apply(said)
    return replay.finish()
