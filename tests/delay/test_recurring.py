"""Recurring messages in whole nodes on a virtual clock: one comes for each due time, whatever happens meanwhile."""

import itertools
from datetime import timedelta

import pytest
import trio

from dduomq.errors import (
    DelayedNotFound,
    InvalidSchedule,
    ScheduleExists,
    ScheduleNotFound,
    UnknownTopicOrPartition,
)
from tests.delay.test_delayed import read, running, until
from tests.sim.machine import Machine


async def due(mq, topic="t"):
    """When each that has come was due, in seconds."""
    return sorted(until(record) // 1000 for record in await read(mq, topic))


def gaps(moments):
    return [after - before for before, after in itertools.pairwise(moments)]


async def test_it_comes_again_and_again(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.add_schedule("beat", "t", "tick", every=timedelta(seconds=10), key="k", headers={"a": "b"})
        await trio.sleep(65)
        records = await read(mq, "t")
        assert len(records) == 6
        assert gaps(await due(mq)) == [10] * 5
        (record, *_) = records
        assert (record.key, record.raw_value, record.header("a")) == (b"k", b"tick", b"b")
        assert record.header("dduomq-schedule") == b"beat"
        assert await mq.admin.count_delayed() == 0
        assert [one async for one in mq.admin.delayed()] == []


async def test_by_cron_in_a_time_zone(autojump_clock):
    """The clock of the simulation begins at 22:13:20 UTC on 14 November 2023."""
    async with running() as (_, _, mq):
        await mq.admin.add_schedule("morning", "t", "good morning", cron="30 7 * * *", timezone="Asia/Tokyo")
        await trio.sleep(20 * 60)
        (moment,) = await due(mq)
        assert moment % 86_400 == 22 * 3_600 + 30 * 60


@pytest.mark.parametrize("end", ["stop", "kill", "power loss"])
@pytest.mark.parametrize(("missed", "expected"), [("once", 1), ("skip", 0), ("all", 20)])
async def test_times_that_no_node_saw(autojump_clock, end, missed, expected):
    """Down for about 200 s of a message every 10 s."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await mq.admin.add_schedule("beat", "t", "tick", every=10, missed=missed)
            await trio.sleep(35)
            before = await due(mq)
            assert len(before) == 3
            if end == "kill":
                machine.platter.kill()
            elif end == "power loss":
                machine.platter.lose_power()
            machine.network.crash()
        await trio.sleep(200)
        async with machine.node(), machine.client() as mq:
            await trio.sleep(3)
            late = (await due(mq))[3:]
            assert abs(len(late) - expected) <= (missed == "all")
            await trio.sleep(60)
            after = await due(mq)
            assert len(after) == len(set(after))
            assert 5 <= len(after) - 3 - len(late) <= 7
            if missed == "all":
                assert set(gaps(after)) == {10}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("step", range(12))
async def test_a_crash_at_any_moment_of_its_coming(autojump_clock, step):
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await mq.admin.create_topic("t", partitions=1)
            await mq.admin.add_schedule("beat", "t", "tick", every=5)
            (one,) = await mq.admin.schedules()
            await trio.sleep((one.next_ms - machine.clock.wall_ms()) / 1000 + step * 0.0009)
            machine.platter.lose_power()
            machine.network.crash()
        async with machine.node(), machine.client() as mq:
            await trio.sleep(30)
            found = await due(mq)
            assert set(gaps(found)) == {5}
            assert found[0] == one.next_ms // 1000
        nursery.cancel_scope.cancel()


async def test_paused_resumed_deleted(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.add_schedule("beat", "t", "tick", every=10)
        await trio.sleep(25)
        await mq.admin.pause_schedule("beat")
        await mq.admin.pause_schedule("beat")
        (listed,) = await mq.admin.schedules()
        assert (listed.is_paused, listed.next_ms) == (True, -1)
        await trio.sleep(100)
        assert len(await due(mq)) == 2
        await mq.admin.resume_schedule("beat")
        await trio.sleep(21)
        assert len(await due(mq)) == 4
        await mq.admin.delete_schedule("beat")
        await trio.sleep(50)
        assert len(await due(mq)) == 4
        assert await mq.admin.schedules() == []
        for act in (mq.admin.delete_schedule, mq.admin.pause_schedule, mq.admin.resume_schedule):
            with pytest.raises(ScheduleNotFound):
                await act("beat")


async def test_what_is_deleted_or_paused_stays_so_after_a_power_loss(autojump_clock):
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            for name in ("stays", "paused", "gone"):
                await mq.admin.add_schedule(name, name, name, every=10)
            await trio.sleep(12)
            await mq.admin.delete_schedule("gone")
            await mq.admin.pause_schedule("paused")
            machine.platter.lose_power()
            machine.network.crash()
        async with machine.node(), machine.client() as mq:
            assert [(one.name, one.is_paused) for one in await mq.admin.schedules()] == [
                ("paused", True), ("stays", False),
            ]  # fmt: skip
            await trio.sleep(30)
            assert [len(await due(mq, topic)) for topic in ("gone", "paused")] == [1, 1]
            assert len(await due(mq, "stays")) == 4
        nursery.cancel_scope.cancel()


async def test_another_one_of_the_name(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.add_schedule("beat", "t", "old", every=10)
        with pytest.raises(ScheduleExists):
            await mq.admin.add_schedule("beat", "t", "new", every=10)
        await mq.admin.add_schedule("beat", "u", "new", every=20, replace=True)
        await trio.sleep(45)
        assert await due(mq) == []
        assert len(await due(mq, "u")) == 2


async def test_its_next_message_is_not_an_operators_to_cancel(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.add_schedule("beat", "t", "tick", every=10)
        (one,) = await mq.admin.schedules()
        for wheel in range(4):
            for number in range(3):
                with pytest.raises(DelayedNotFound):
                    await mq.admin.cancel_delayed(f"{wheel}-{one.next_ms}-{number}")
        await trio.sleep(11)
        assert len(await due(mq)) == 1


async def test_a_topic_that_is_gone(autojump_clock):
    """Its messages rest among the dead letters; the schedule goes on until somebody deletes it."""
    async with running() as (_, _, mq):
        await mq.admin.add_schedule("beat", "t", "tick", every=10)
        await trio.sleep(15)
        await mq.admin.delete_topic("t")
        await trio.sleep(20)
        assert len(await due(mq, "dlq.delayed")) == 2


async def test_mistakes(autojump_clock):
    async with running() as (_, _, mq):
        for wrong in (
            {"cron": "nonsense"}, {"every": 0.001}, {}, {"cron": "0 0 * * *", "every": 5},
            {"every": 5, "missed": "never"}, {"cron": "0 0 * * *", "timezone": "Nowhere/At_all"},
        ):  # fmt: skip
            with pytest.raises(InvalidSchedule):
                await mq.admin.add_schedule("s", "t", "x", **wrong)
        with pytest.raises(UnknownTopicOrPartition):
            await mq.admin.add_schedule("s", "t", "x", every=5, partition=99)
        assert await mq.admin.schedules() == []
