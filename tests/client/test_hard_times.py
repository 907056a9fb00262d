"""Consumers at bad moments: partitions that are away, slow callbacks, work that outlives its partition."""

import itertools
from contextlib import suppress
from random import Random

import anyio
import pytest
import trio

from dduomq.client import group_life
from dduomq.client.client import connect
from dduomq.client.part import Part
from dduomq.errors import DduomqError, LeaderNotAvailable, UnknownTopicOrPartition
from dduomq.listeners import native_groups, push
from dduomq.testing.disk import Faults
from tests.client.test_consuming import PARTITIONS, consuming, fill, serving, until, value


async def put_out(mq, group="g"):
    """The broker puts out the group's only member."""
    [member] = (await mq.admin.describe_group(group)).members
    await mq.admin.remove_member(group, member.member_id)


# --- partitions that are away -----------------------------------------------------------------------


async def test_a_partition_that_is_offline_holds_up_none_of_the_others(autojump_clock):
    """Its heartbeats go on, too: it is not put out."""
    async with serving() as (machine, mq):
        await fill(mq, 0, 40)
        machine.platter.faults = Faults(sync_fails=1.0)
        with pytest.raises(DduomqError), anyio.fail_after(60):
            await mq.send("t", b"x", partition=0)
        machine.platter.faults = Faults()
        seen, lost = [], []
        async with consuming(machine, seen, session_timeout=10, on_lost=lost.append) as consumer:
            await anyio.sleep(60)
            assert sorted(seen) == [number for number in range(40) if number % PARTITIONS]
            assert ("t", 1) in consumer.assignment
            assert not lost


async def test_a_topic_that_goes_while_its_start_is_looked_for_holds_up_none_of_the_others(autojump_clock, monkeypatch):
    """At the consumer's own start, and when it is at work."""
    async with serving() as (machine, mq):
        find = group_life.find_offset

        async def find_too_late(ask, topic, *rest):
            if topic.startswith("t-"):
                with suppress(UnknownTopicOrPartition):  # it has gone already
                    await mq.admin.delete_topic(topic)
            return await find(ask, topic, *rest)

        monkeypatch.setattr(group_life, "find_offset", find_too_late)
        seen, lost = [], []
        await mq.admin.create_topic("t-early", partitions=1)
        await fill(mq, 0, 40)
        async with (
            connect("sim:6086", dial=machine.network.dial_client, rng=Random(9), wall_ms=machine.clock.wall_ms) as own,
            own.consumer(pattern="t.*", group="g", session_timeout=10, on_lost=lost.append) as consumer,
            anyio.create_task_group() as tasks,
        ):

            async def work():
                while True:
                    seen.extend(map(value, await consumer.pull()))

            tasks.start_soon(work)
            await until(lambda: len(seen) == 40)
            await mq.admin.create_topic("t-late", partitions=1)
            await anyio.sleep(60)
            assert {topic.name for topic in await mq.admin.list_topics()} == {"__groups", "t"}
            await fill(mq, 40, 80)
            await anyio.sleep(10)
            tasks.cancel_scope.cancel()
        assert sorted(seen) == list(range(80))
        assert not lost


async def test_a_slow_on_assign_does_not_stop_the_heartbeats(autojump_clock):
    """It takes longer than a session: reading a local state, say."""
    async with serving() as (machine, mq):
        await fill(mq, 0, 40)
        seen, lost = [], []

        async def read_state(_places):
            await anyio.sleep(15)

        async with consuming(machine, seen, session_timeout=10, on_assign=read_state, on_lost=lost.append):
            await anyio.sleep(60)
        assert sorted(seen) == list(range(40))
        assert not lost


async def test_streams_that_are_not_wanted_any_more_when_they_open_are_ended(autojump_clock, monkeypatch):
    """A partition goes while its stream is on its way: nobody else would end it."""
    running, run = [], push.PushStream.run

    async def counted(self, ended):
        running.append(self)
        try:
            await run(self, ended)
        finally:
            running.remove(self)

    monkeypatch.setattr(push.PushStream, "run", counted)
    async with serving() as (_, mq), mq.consumer("t", group="g") as consumer:
        await anyio.sleep(1)
        feed, topic_id = consumer._feed, consumer._feed.parts["t", 0].topic_id
        assert len(running) == PARTITIONS
        for ticks in range(12):
            feed.add(part := Part(topic_id, "t", 0, 0, None))
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            feed.remove(part)
        await anyio.sleep(5)
        assert len(running) == PARTITIONS


# --- work in progress -------------------------------------------------------------------------------


async def test_pulling_keeps_to_the_most_in_flight(autojump_clock):
    async with serving() as (_, mq):
        await fill(mq, 0, 40)
        async with mq.consumer("t", group="g", max_in_flight=2) as consumer:
            await anyio.sleep(2)  # all are here
            seen = []
            while records := await consumer.pull(timeout=1):
                assert len(records) <= 2
                seen += map(value, records)
        assert sorted(seen) == list(range(40))


async def test_work_on_what_was_lost_does_not_count_as_in_flight(autojump_clock):
    """Who does not ack what is lost is given more, all the same."""
    async with serving() as (_, mq):
        await fill(mq, 0, 4, partition=0)
        async with mq.consumer("t", group="g", max_in_flight=1, auto_ack=False, session_timeout=5) as consumer:
            record = await anext(consumer)
            async with anyio.create_task_group() as tasks:

                async def put_out_later():
                    await anyio.sleep(1)
                    await put_out(mq)

                tasks.start_soon(put_out_later)
                with anyio.fail_after(60):
                    again = await anext(consumer)
            assert record.is_lost
            assert not again.is_lost
            assert value(again) == value(record) == 0


async def test_work_that_has_not_begun_does_not_begin_when_its_partition_was_given_up(autojump_clock):
    """A handler takes longer than the rebalance allows; what waits for it is another member's by then."""
    async with serving() as (machine, mq):
        await fill(mq, 0, 40)
        given_up, begun, late, others = set(), [], [], []

        def on_revoke(places):
            given_up.update(at for _, at in places)

        async def handler(record):
            (late if record.partition in given_up else begun).append(value(record))
            await anyio.sleep(20)

        async with (
            mq.consumer("t", group="g", rebalance_timeout=10, on_revoke=on_revoke) as consumer,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(lambda: consumer.run(handler, concurrency=4))
            await until(lambda: len(begun) == 4)
            async with consuming(machine, others, seed=3):
                await until(lambda: given_up)
                await anyio.sleep(100)
            tasks.cancel_scope.cancel()
        assert len(begun) > 4
        assert others
        assert not late


# --- commits ----------------------------------------------------------------------------------------


def refuse_one_commit(monkeypatch):
    """The next commit finds its partition away; it is in the list then."""
    committed, refused = native_groups._committed, []

    async def away_for_a_moment(services, context, part):
        if not refused:
            refused.append(part)
            raise LeaderNotAvailable("t-0 is opening")
        return await committed(services, context, part)

    monkeypatch.setattr(native_groups, "_committed", away_for_a_moment)
    return refused


@pytest.mark.parametrize("by_hand", [True, False])
async def test_a_commit_outlasts_a_partition_that_is_away_for_a_moment(autojump_clock, monkeypatch, by_hand):
    """One by hand, and the last one of a consumer that leaves."""
    async with serving() as (_, mq):
        await fill(mq, 0, 10, partition=0)
        refused = refuse_one_commit(monkeypatch)
        async with mq.consumer("t", group="g", auto_commit=not by_hand, commit_interval=1_000) as consumer:
            while await consumer.pull(timeout=1):
                pass
            assert not refused
            if by_hand:
                await consumer.commit()
                assert await mq.admin.group_offsets("g") == {("t", 0): 10}
        assert refused
        assert await mq.admin.group_offsets("g") == {("t", 0): 10}


async def test_a_seek_while_a_commit_is_under_way_is_committed_by_the_next(autojump_clock, monkeypatch):
    """The answer is to what was asked before it."""
    async with serving() as (_, mq):
        await fill(mq, 0, 10, partition=0)
        committed, asked, go_on = native_groups._committed, trio.Event(), trio.Event()

        async def slowly(*args):
            asked.set()
            await go_on.wait()
            return await committed(*args)

        monkeypatch.setattr(native_groups, "_committed", slowly)
        async with mq.consumer("t", group="g", auto_commit=False) as consumer:
            while await consumer.pull(timeout=1):
                pass
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consumer.commit)
                await asked.wait()
                await consumer.seek("t", 0, 2)
                go_on.set()
            await consumer.commit()
            assert await mq.admin.group_offsets("g") == {("t", 0): 2}


async def test_an_ack_from_before_a_seek_says_nothing_about_what_came_after(autojump_clock):
    async with serving() as (_, mq):
        await fill(mq, 0, 3, partition=0)
        async with mq.consumer("t", group="g", auto_ack=False, auto_commit=False) as consumer:

            async def three():
                records = []
                while len(records) < 3:
                    records += await consumer.pull()
                return records

            before = await three()
            await consumer.seek("t", 0, 0)
            after = await three()
            for record in before:
                await record.ack()
            await after[1].ack()
            await consumer.commit()
            assert (await mq.admin.group_offsets("g")).get(("t", 0), 0) == 0
            await after[0].ack()
            await consumer.commit()
            assert await mq.admin.group_offsets("g") == {("t", 0): 2}


async def test_who_comes_after_a_start_at_the_end_goes_on_there(autojump_clock):
    """With nothing read: where it began is committed soon, and nothing that comes later is left out."""
    async with serving() as (machine, mq):
        await fill(mq, 0, 40)
        seen = []
        async with consuming(machine, seen, seed=1, start="latest") as consumer:
            await until(lambda: len(consumer.assignment) == PARTITIONS)
            await anyio.sleep(10)
            assert await mq.admin.group_offsets("g") == {("t", at): 10 for at in range(PARTITIONS)}
        await fill(mq, 40, 80)
        async with consuming(machine, seen, seed=2, start="latest"):
            await anyio.sleep(30)
        assert sorted(seen) == list(range(40, 80))


async def test_who_shares_with_a_start_at_the_end_goes_on_there(autojump_clock):
    """The first one has read nothing of what it gives up."""
    async with serving() as (machine, mq):
        await fill(mq, 0, 40)
        seen, gate = [], anyio.Event()

        async def handle(_record):
            await gate.wait()

        async with consuming(machine, seen, seed=1, start="latest", handle=handle) as one:
            await until(lambda: len(one.assignment) == PARTITIONS)
            await fill(mq, 40, 80)
            await anyio.sleep(1)
            async with consuming(machine, seen, seed=2, start="latest") as two:
                await anyio.sleep(5)
                gate.set()
                await until(lambda: len(one.assignment) == len(two.assignment) == PARTITIONS // 2)
                await anyio.sleep(30)
                assert sorted(seen) == list(range(40, 80))


async def test_an_error_at_the_first_record_after_a_start_at_the_end_loses_none(autojump_clock):
    async with serving() as (machine, mq):
        await fill(mq, 0, 40)

        async def fail_at_once():
            async with mq.consumer("t", group="g", start="latest") as consumer:
                await fill(mq, 40, 50, partition=0)
                async for _ in consumer:
                    raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail_at_once()
        seen = []
        async with consuming(machine, seen, seed=2, start="latest"):
            await anyio.sleep(30)
        assert sorted(seen) == list(range(40, 50))


async def test_a_commit_while_a_new_epoch_is_being_stored_puts_nobody_out(autojump_clock):
    """Others come and go, and it commits all the time, on a slow disk: it loses nothing, and reads nothing twice."""
    async with serving() as (machine, mq):
        seen, lost = [], []
        machine.platter.faults = Faults(slowness=30)
        async with (
            consuming(machine, seen, seed=1, commit_interval=0.05, on_lost=lost.append),
            anyio.create_task_group() as tasks,
        ):

            async def send():
                for number in itertools.count():
                    await fill(mq, number, number + 1)

            tasks.start_soon(send)
            await anyio.sleep(1)
            for seed in range(2, 8):
                async with consuming(machine, seen, seed=seed, commit_interval=0.05, on_lost=lost.append):
                    await anyio.sleep(2.13)
                await anyio.sleep(2.31)
            tasks.cancel_scope.cancel()
        assert not lost
        assert len(seen) == len(set(seen))


@pytest.mark.parametrize("apart_s", [0.0, 0.005])
async def test_members_that_leave_together_commit_all_they_have_done(autojump_clock, apart_s):
    """The first one that goes gives the group a new epoch, of which the other one does not hear any more."""
    async with serving() as (machine, mq):
        seen, ready, end = [], [], anyio.Event()

        async def member(seed, delay_s):
            async with (
                connect(
                    "sim:6086", dial=machine.network.dial_client, rng=Random(seed), wall_ms=machine.clock.wall_ms
                ) as own,
                own.consumer("t", group="g", commit_interval=1_000) as consumer,
            ):
                await until(lambda: len(consumer.assignment) == PARTITIONS // 2)
                ready.append(seed)
                while not end.is_set():
                    seen.extend(map(value, await consumer.pull(timeout=0.1)))
                await anyio.sleep(delay_s)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(member, 1, 0)
            tasks.start_soon(member, 2, apart_s)
            await until(lambda: len(ready) == 2)
            await anyio.sleep(5)
            await fill(mq, 0, 80)
            await until(lambda: len(seen) == 80)
            await anyio.sleep(1)
            end.set()
        assert sum((await mq.admin.group_offsets("g")).values()) == 80
