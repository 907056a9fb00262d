"""Records that could not be done come again with growing pauses, and rest in the end (F41-F43): whole nodes."""

import pytest
import trio

from dduomq.client.group_events import DeadLettered, Retried
from dduomq.errors import InvalidDelay, UsageError
from tests.client.test_consuming import collect
from tests.retry.helpers import (
    Work,
    failing,
    kill,
    lag,
    letters,
    one_machine,
    place_of,
    read,
    running,
    until,
    working,
)


async def test_a_record_that_fails_comes_again_and_the_others_go_on(autojump_clock):
    work, began = Work(), None
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(5):
            await mq.send("t", str(n), key=b"k", headers={"own": "1"})
        began = trio.current_time()
        async with working(machine, work, failing("1", until_attempt=3)) as consumer:
            await until(lambda: len(work.seen) == 7)
        assert work.seen == [("0", 1), ("1", 1), ("2", 1), ("3", 1), ("4", 1), ("1", 2), ("1", 3)]
        assert 15 <= trio.current_time() - began < 20, "5 s, then 10 s"
        first, second = (record for record in work.records if record.raw_value == b"1" and record.attempt < 3)
        assert place_of(first) == place_of(second) == ("t", 0, 1)
        assert (second.key, second.headers, second.timestamp_ms) == (first.key, first.headers, first.timestamp_ms)
        assert (first.last_error, second.last_error) == (None, "ValueError: can't do 1")
        assert set((await lag(mq)).values()) == {0}
        assert consumer is not None


async def test_after_its_last_try_it_is_a_dead_letter_that_tells_its_story(autojump_clock):
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        sent = await mq.send("t", "bad", key=b"k", headers={"own": "1"})
        async with working(machine, work, failing("bad"), retry=[1, 2]):
            await until(lambda: len(work.seen) == 3)
            await trio.sleep(60)
        assert work.tries_of("bad") == [1, 2, 3]
        (letter,) = await letters(mq)
        assert (letter.origin_topic, letter.origin_partition, letter.origin_offset) == ("t", 0, sent.offset)
        assert (letter.attempts, letter.error, letter.reason) == (3, "ValueError: can't do bad", "it was tried 3 times")
        assert (letter.key, letter.value, letter.headers) == (b"k", b"bad", [("own", b"1")])
        assert letter == await mq.admin.dead_letter("g", letter.letter_id)
        (one,) = await mq.admin.dead_letter_groups()
        assert (one.group, one.topic, one.count) == ("g", "dlq.g", 1)


async def test_a_dead_letter_is_sent_on_once(autojump_clock):
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=2)
        for n in range(20):
            await mq.send("t", f"bad{n}", partition=n % 2)
        async with working(machine, work, failing(*(f"bad{n}" for n in range(20))), retry=[]):
            await until(lambda: len(work.seen) == 20)
            await trio.sleep(1)
        rest = await letters(mq)
        assert len(rest) == 20
        progress = []
        assert await mq.admin.redrive("g", [rest[3].letter_id]) == 1
        with pytest.raises(Exception, match="sent on"):
            await mq.admin.redrive("g", [rest[3].letter_id])
        assert await mq.admin.redrive("g", on_progress=progress.append) == 19
        assert await mq.admin.redrive("g") == 0
        assert progress[-1] == 19
        assert await letters(mq) == []
        again = Work()
        async with working(machine, again, failing(), seed=6):
            await until(lambda: len(again.seen) == 20)
            await trio.sleep(60)
        assert sorted(again.seen) == sorted((f"bad{n}", 1) for n in range(20)), "each once, as if never tried"
        assert {record.topic for record in again.records} == {"t"}


async def test_letters_are_chosen_by_filter_sent_to_their_origin_or_taken_away(autojump_clock):
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(6):
            await mq.send("t", f"bad{n}", headers={"region": "eu" if n % 2 else "us"})
        async with working(machine, work, failing(*(f"bad{n}" for n in range(6))), retry=[]):
            await until(lambda: len(work.seen) == 6)
            await trio.sleep(1)
        assert len(await letters(mq, filter="region = 'eu'")) == 3
        assert await mq.admin.redrive("g", filter="region = 'eu'", to="origin") == 3
        assert await mq.admin.purge_dead_letters("g", filter="region = 'us'") == 3
        assert await letters(mq) == []
        await trio.sleep(1)
        found = [record.raw_value for record in await read(mq, "t")]
        assert sorted(found[6:]) == [b"bad1", b"bad3", b"bad5"]
        assert [record.headers for record in (await read(mq, "t"))[6:]] == [[("region", b"eu")]] * 3


async def test_nack_and_reject_by_hand(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(3):
            await mq.send("t", str(n))
        events, began = [], trio.current_time()
        async with mq.consumer("t", group="g") as consumer, trio.open_nursery() as nursery:
            nursery.start_soon(collect, consumer, events)
            first, second, third = await consumer.pull(10)
            with pytest.raises(InvalidDelay):
                await first.nack(delay=-1)
            await first.nack(delay=100, error="busy")
            await first.nack(delay=1)  # it is aside already
            await second.reject("no such customer")
            await third.ack()
            again = await consumer.pull(10)
            assert [(r.raw_value, r.attempt, r.last_error) for r in again] == [(b"0", 2, "busy")]
            assert 100 <= trio.current_time() - began < 101
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        told = [event for event in events if isinstance(event, Retried | DeadLettered)]
        assert [type(event) for event in told] == [Retried, DeadLettered]
        (letter,) = await letters(mq)
        assert (letter.value, letter.reason, letter.attempts) == (b"1", "no such customer", 1)
        assert set((await lag(mq)).values()) == {0}


async def test_who_sets_nothing_aside_says_so(autojump_clock):
    async with running() as (_, _, mq):
        await mq.send("t", "x")
        async with mq.consumer("t", mode="broadcast", offsets_file=None) as consumer:
            (record,) = await consumer.pull(1)
            with pytest.raises(UsageError, match="sets nothing aside"):
                await record.nack()
        async with mq.consumer("t", group="g", retry=None) as consumer:
            (record,) = await consumer.pull(1)
            with pytest.raises(UsageError, match="sets nothing aside"):
                await record.reject()
            with pytest.raises(UsageError, match="needs a group, and retry"):
                await consumer.run(print, on_failure="retry")


async def test_who_takes_over_does_not_get_what_stepped_aside(autojump_clock):
    """The first member dies before it commits: the second reads on behind the committed offset, but for that record."""
    async with one_machine() as machine:
        work = Work()
        async with running(machine) as (_, _, mq):
            await mq.admin.create_topic("t", partitions=1)
            for n in range(5):
                await mq.send("t", str(n))
            async with mq.consumer("t", group="g", auto_commit=False) as consumer:
                records = await consumer.pull(10)
                await records[0].ack()
                await records[1].nack(delay=30)
                await records[3].reject("no")
            async with working(machine, work, failing()):
                await until(lambda: len(work.seen) == 4)
                await trio.sleep(60)
            assert work.seen == [("0", 1), ("2", 1), ("4", 1), ("1", 2)]
            assert [letter.value for letter in await letters(mq)] == [b"3"]
            kill(machine)


async def test_an_order_that_was_asked_for_is_kept_at_any_price(autojump_clock):
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(3):
            await mq.send("t", str(n))
        with pytest.raises(ValueError, match="can't do 1"):
            async with working(machine, work, failing("1"), run={"ordered": "partition", "retries": 2}):
                await trio.sleep(60)
        assert work.seen == [("0", 1), ("1", 1), ("1", 1), ("1", 1)]
        more = Work()
        async with working(machine, more, failing("1"), seed=6,
                           run={"ordered": "partition", "on_failure": "dead-letter", "retries": 1}):  # fmt: skip
            await until(lambda: len(more.seen) >= 3)
            await trio.sleep(1)
        assert more.seen == [("1", 1), ("1", 1), ("2", 1)]
        assert [letter.value for letter in await letters(mq)] == [b"1"]


@pytest.mark.parametrize("start", ["latest", 0])
async def test_what_stepped_aside_comes_wherever_the_consumer_began(autojump_clock, start):
    """The retry topic is new when the first record is in it: who begins there with what comes later would miss it."""
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        async with working(machine, work, failing("bad", until_attempt=2), start=start, retry=[0]):
            await trio.sleep(1)
            await mq.send("t", "bad")
            await until(lambda: len(work.seen) == 2)
        assert work.seen == [("bad", 1), ("bad", 2)]


@pytest.mark.parametrize("name", ["retry.g", "dlq.g"])
async def test_a_topic_of_somebody_else_may_have_the_name(autojump_clock, name):
    """It is left alone, neither written nor read; the group's own one is called almost so."""
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.send(name, "somebody else's")
        await mq.send("t", "bad")
        async with working(machine, work, failing("bad"), retry=[1]):
            await until(lambda: len(work.seen) == 2)
            await trio.sleep(30)
        assert work.seen == [("bad", 1), ("bad", 2)]
        assert [letter.value for letter in await letters(mq)] == [b"bad"]
        assert [record.raw_value for record in await read(mq, name)] == [b"somebody else's"]
