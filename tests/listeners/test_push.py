"""Pushing, on a virtual clock: records come as they are stored, never more than was asked for."""

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from dduomq.actors.partition_messages import FetchPlan
from dduomq.client.consumer import Decoder
from dduomq.client.record import Message
from dduomq.errors import DduomqError, InvalidFilter, InvalidRequest, OffsetOutOfRange, UnknownTopicOrPartition
from dduomq.limits import CREDITS_MAX
from dduomq.listeners import fetch
from dduomq.listeners.push import PushStream
from dduomq.wire import frame, native
from dduomq.wire.native_groups import Credit, Push, Pushed
from tests.sim.machine import Machine


class Stream:
    """What has come by one stream."""

    def __init__(self, connection, pending):
        self.connection = connection
        self.pending = pending
        self.frames = []
        self.records = []
        self.error = None
        self.decoder = Decoder("t", 0, 0, None)
        pending.call(self._on_answer)

    def _on_answer(self):
        try:
            plain, payload = self.pending.answer()
        except DduomqError as error:
            self.error = error
            return
        pushed = native.from_plain(Pushed, plain)
        assert len(payload) == pushed.size
        self.frames.append(pushed)
        self.records += self.decoder.decode(payload, pushed.aborted)

    async def credit(self, credits):
        await self.connection.tell(Credit(self.pending._correlation, credits), 1_000, ())

    async def until(self, count):
        for _ in range(3_000):
            if len(self.records) >= count or self.error is not None:
                return
            await trio.sleep(0.01)
        raise AssertionError(f"{len(self.records)} of {count} records came")

    @property
    def values(self):
        return [int(record.value) for record in self.records]


@asynccontextmanager
async def serving():
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node() as node, machine.client() as mq:
            await mq.admin.create_topic("t", partitions=2)
            yield machine, node, mq
        nursery.cancel_scope.cancel()


async def push(mq, *, topic="t", offset=0, credits=1_000, **fields):
    connection = await mq._wire.connection()
    return Stream(connection, await connection.post(Push(topic, 0, offset, credits, **fields), 10_000))


async def send(mq, numbers):
    for number in numbers:
        await mq.send("t", str(number), partition=0, headers={"even": str(number % 2 == 0).lower()})


async def test_records_come_as_they_are_stored(autojump_clock):
    async with serving() as (_, _, mq):
        await send(mq, range(3))
        stream = await push(mq)
        await stream.until(3)
        for number in range(3, 6):
            begun = trio.current_time()
            await send(mq, [number])
            await stream.until(number + 1)
            assert trio.current_time() - begun < 0.5
        assert stream.values == list(range(6))
        assert sum(frame.cost for frame in stream.frames) == 6
        assert stream.frames[-1].high_watermark == 6


async def test_nothing_comes_without_credits(autojump_clock):
    async with serving() as (_, _, mq):
        await send(mq, range(10))
        stream = await push(mq, credits=0)
        await trio.sleep(60)
        assert not stream.frames
        await stream.credit(3)
        await trio.sleep(60)
        got = len(stream.records)
        assert 3 <= got < 10 or stream.frames[0].cost == 10  # a batch goes whole
        await stream.credit(100)
        await stream.until(10)
        assert stream.values == list(range(10))


async def test_one_batch_may_overdraw(autojump_clock):
    """Then nothing more comes until as much was given back."""
    async with serving() as (_, _, mq):
        for _ in range(2):
            await mq.send_batch("t", [b"1"] * 10, partition=0)
        stream = await push(mq, credits=1, max_bytes=1)
        await trio.sleep(10)
        assert [frame.cost for frame in stream.frames] == [10]
        await stream.credit(9)
        await trio.sleep(10)
        assert len(stream.frames) == 1
        await stream.credit(1)
        await stream.until(20)
        assert [frame.cost for frame in stream.frames] == [10, 10]


async def test_a_stream_ends_by_the_clients_word(autojump_clock):
    async with serving() as (_, _, mq):
        stream = await push(mq)
        await send(mq, [0])
        await stream.until(1)
        await stream.credit(-1)
        await trio.sleep(1)
        await send(mq, [1])
        await trio.sleep(10)
        assert stream.values == [0]
        await stream.credit(5)  # for a stream that is no more: of no effect


async def test_a_filter_works_at_the_broker(autojump_clock):
    """What does not match is not sent, and the position passes it."""
    async with serving() as (_, _, mq):
        await send(mq, range(20))
        stream = await push(mq, filter="even = TRUE", credits=5)
        await stream.until(5)
        while stream.decoder.position < 20:
            await stream.credit(5)
            await trio.sleep(0.1)
        assert stream.values == list(range(0, 20, 2))
        assert sum(frame.cost for frame in stream.frames) == 10
        nothing = await push(mq, filter="even = 'neither'", credits=1)
        await trio.sleep(1)
        assert not nothing.records
        assert nothing.decoder.position == 20


@pytest.mark.parametrize("records", [3, 5_000])
async def test_a_large_batch_is_filtered_too(autojump_clock, records):
    """In a disk thread."""
    async with serving() as (_, _, mq):
        messages = [Message(str(n), headers={"third": str(n % 3)}) for n in range(records)]
        await mq.send_batch("t", messages, partition=0)
        stream = await push(mq, filter="third = 0", credits=1)
        await stream.until(-(-records // 3))
        assert stream.values == list(range(0, records, 3))
        assert stream.decoder.position == records


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"topic": "nope"}, UnknownTopicOrPartition),
        ({"offset": 5}, OffsetOutOfRange),
        ({"filter": "a >"}, InvalidFilter),
        ({"credits": CREDITS_MAX + 1}, InvalidRequest),
        ({"credits": -1}, InvalidRequest),
    ],
)
async def test_what_can_not_be_is_told(autojump_clock, fields, error):
    async with serving() as (_, _, mq):
        stream = await push(mq, **fields)
        await stream.until(1)
        assert isinstance(stream.error, error)
        await send(mq, [0])  # the connection goes on


async def test_a_topic_that_is_deleted_ends_its_stream(autojump_clock):
    async with serving() as (_, _, mq):
        stream = await push(mq)
        await send(mq, [0])
        await stream.until(1)
        await mq.admin.delete_topic("t")
        await stream.until(2)
        assert isinstance(stream.error, DduomqError)


async def test_streams_end_with_their_connection(autojump_clock):
    """And leave nothing behind in the node."""
    async with serving() as (machine, _node, mq):
        async with machine.client() as other:
            for _ in range(50):
                await push(other)
        await trio.sleep(1)
        await send(mq, range(3))
        stream = await push(mq)
        await stream.until(3)
        assert stream.values == [0, 1, 2]


async def test_pulling_with_a_filter(autojump_clock):
    async with serving() as (_, _, mq):
        await send(mq, range(10))
        body = native.Fetch(0, 1, 1_000_000, 1, (native.FetchPart("t", 0, 0, 1_000_000),), "even = TRUE")
        plain, payload = await mq._wire.ask(body, 10_000)
        part = native.from_plain(native.Fetched, plain).parts[0]
        decoder = Decoder("t", 0, 0, None)
        assert [int(r.value) for r in decoder.decode(payload[: part.size], ())] == [0, 2, 4, 6, 8]
        assert decoder.position == 10


def test_a_mark_that_is_not_known_is_not_told():
    """By a stream as little as by a fetch."""
    plan = FetchPlan(None, 0, 0, 1, 1, 0, is_mark_known=False)
    stream = SimpleNamespace(_credits=9, _correlation=1)
    told = frame.read_header(PushStream._head(stream, plan, 0, 1)[frame.PREFIX_BYTES :])
    assert native.from_plain(Pushed, told[-1]).high_watermark == native.UNKNOWN_MARK
    assert fetch._part(plan).high_watermark == native.UNKNOWN_MARK
