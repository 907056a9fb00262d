"""Time to live (F44): what is too old when its turn comes is passed, or a dead letter."""

import pytest
import trio

from dduomq.client.expiry import TimeToLive
from dduomq.client.group_events import Expired
from dduomq.client.record import Record
from tests.client.test_consuming import collect
from tests.retry.helpers import Work, failing, lag, letters, running, until, working


@pytest.mark.parametrize(
    ("header", "topic_ms", "age_ms", "has_run_out"),
    [
        (None, -1, 10**9, False), (None, 100, 100, False), (None, 100, 101, True), (b"200", 100, 150, False),
        (b"1s", -1, 1_001, True), (b"0", -1, 1, True), (b"soon", -1, 10**9, False), (b"soon", 100, 101, True),
        (b"\xff", 100, 50, False), (b"", 100, 50, False),
    ],
)  # fmt: skip
def test_when_it_has_run_out(header, topic_ms, age_ms, has_run_out):
    headers = [] if header is None else [("dduomq-ttl", header)]
    record = Record("t", 0, 0, 1_000, None, b"", headers)
    assert TimeToLive(topic_ms).has_run_out(record, 1_000 + age_ms) is has_run_out


async def test_what_is_too_old_is_passed(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.send("t", "short", ttl=5)
        await mq.send("t", "long", ttl=500)
        await mq.send("t", "ever")
        await trio.sleep(10)
        events = []
        async with mq.consumer("t", group="g") as consumer, trio.open_nursery() as nursery:
            nursery.start_soon(collect, consumer, events)
            assert [record.raw_value for record in await consumer.pull(10)] == [b"long", b"ever"]
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        (expired,) = (event for event in events if isinstance(event, Expired))
        assert expired.record.raw_value == b"short"
        assert set((await lag(mq)).values()) == {0}
        assert await mq.admin.dead_letter_groups() == []


async def test_a_topic_says_it_for_all_and_buries_them(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.create_topic(
            "t", partitions=1, config={"message.ttl.ms": "60000", "message.ttl.action": "dead-letter"}
        )
        await mq.send("t", "old")
        await trio.sleep(100)
        await mq.send("t", "new")
        async with mq.consumer("t", group="g") as consumer:
            assert [record.raw_value for record in await consumer.pull(10)] == [b"new"]
        await trio.sleep(1)
        (letter,) = await letters(mq)
        assert (letter.value, letter.reason) == (b"old", "its time to live had run out")
        async with mq.consumer("t", mode="broadcast") as consumer:
            assert [record.raw_value for record in await consumer.pull(10)] == [b"new"]


async def test_a_record_that_comes_again_is_as_old_as_it_is(autojump_clock):
    work = Work()
    async with running() as (machine, _, mq):
        await mq.send("t", "bad", ttl=12)
        async with working(machine, work, failing("bad")):
            await until(lambda: len(work.seen) == 2)  # at once, and after 5 s; the third would be after 15
            await trio.sleep(60)
        assert work.tries_of("bad") == [1, 2]
        assert set((await lag(mq)).values()) == {0}


async def test_queues_look_at_it_too(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1, config={"message.ttl.action": "dead-letter"})
        await mq.send("t", "old", ttl=1)
        await mq.send("t", "ever")
        await trio.sleep(10)
        async with mq.queue("t", group="q") as queue:
            assert [record.raw_value for record in await queue.pull(10)] == [b"ever"]
        await trio.sleep(2)
        (letter,) = await letters(mq, "q")
        assert (letter.value, letter.reason) == (b"old", "its time to live had run out")
