"""Faults that other brokers have had with records that are tried again; each is a story that must end well here."""

import pytest
import trio

from tests.client.test_consuming import until
from tests.retry.helpers import Work, failing, kill, lag, letters, one_machine, running, working


async def test_the_committed_offset_passes_a_record_that_failed(autojump_clock):
    """It stuck at the first failed record for ever, and everything behind it was consumed again after a restart."""
    async with one_machine() as machine:
        work = Work()
        async with running(machine) as (_, _, mq):
            await mq.admin.create_topic("t", partitions=1)
            for n in range(50):
                await mq.send("t", str(n))
            async with working(machine, work, failing("3", "4", "10"), retry=[3600]):
                await until(lambda: len(work.seen) == 50)
                await trio.sleep(3)
            assert (await mq.admin.group_offsets("g"))["t", 0] == 50
            kill(machine)
        more = Work()
        async with running(machine), working(machine, more, failing()):
            await trio.sleep(30)
        assert more.seen == []


async def test_a_failed_record_does_not_break_an_order_that_was_asked_for(autojump_clock):
    """Sent back to the topic, it came behind its successors."""
    tries = []

    async def fail_twice(record):
        tries.append(record.raw_value.decode())
        if record.raw_value == b"1" and tries.count("1") < 3:
            raise ValueError

    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(4):
            await mq.send("t", str(n), key=b"k")
        for ordered in ("partition", "key"):
            tries.clear()
            async with working(machine, Work(), fail_twice, group=ordered, run={"ordered": ordered, "concurrency": 8}):
                await until(lambda: len(tries) == 6)
            assert tries == ["0", "1", "1", "1", "2", "3"]


@pytest.mark.parametrize("hours", [7, 8, 24 * 366 * 20])
async def test_a_long_pause_is_a_pause(autojump_clock, hours):
    """More than 7.5 hours raised an error when all was stored already: the record never came, nor did any other."""
    work = Work()
    async with running() as (machine, _, mq):
        await mq.send("t", "bad")
        async with working(machine, work, failing("bad", until_attempt=2), retry=[hours * 3600]):
            await until(lambda: len(work.seen) == 1)
            await trio.sleep(2)
        waiting = [one async for one in mq.admin.delayed("retry.g")]
        assert len(waiting) == 1
        left_h = (waiting[0].due_ms - machine.clock.wall_ms()) / 3_600_000
        assert hours - 0.1 < left_h <= hours
        await mq.admin.reschedule(waiting[0].delay_id, delay=1)
        async with working(machine, work, failing(), seed=9):
            await until(lambda: work.seen == [("bad", 1), ("bad", 2)])


async def test_a_retry_outlives_the_member_that_wished_for_it(autojump_clock):
    """It was kept in the client's memory, and lost with it."""
    async with one_machine() as machine:
        work = Work()
        async with running(machine) as (_, _, mq):
            await mq.send("t", "bad")
            async with mq.consumer("t", group="g") as consumer:
                (record,) = await consumer.pull(1)
                await record.nack(delay=100)
            kill(machine)
        async with running(machine) as (_, _, mq):
            async with working(machine, work, failing()):
                await until(lambda: work.seen == [("bad", 2)])
                await trio.sleep(200)
            assert work.seen == [("bad", 2)]
            assert set((await lag(mq)).values()) == {0}


async def test_a_poisonous_record_is_tried_so_often_and_not_more(autojump_clock):
    """It went round for ever, or was dropped without a word."""
    work = Work()
    async with running() as (machine, _, mq):
        await mq.send("t", "poison")
        async with working(machine, work, failing("poison"), retry=[1] * 15):
            await trio.sleep(300)
        assert work.tries_of("poison") == list(range(1, 17))
        (letter,) = await letters(mq)
        assert (letter.attempts, letter.reason) == (16, "it was tried 16 times")
