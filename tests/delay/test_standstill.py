"""Wheels that stopped, work without end, and callers that were never answered; each of these has happened."""

import contextlib
from datetime import UTC, datetime
from random import Random

import pytest
import trio

from dduomq.actors.actor import Mailbox, Reply
from dduomq.actors.alarms import Alarm
from dduomq.actors.wheel import WheelActor
from dduomq.actors.wheel_messages import CancelDelayed, FindDelayed, Reschedule
from dduomq.actors.wheel_reader import WheelReader
from dduomq.delay import recent, schedule, timeline
from dduomq.delay.records import Target
from dduomq.delay.schedule import Missed, Schedule
from dduomq.delay.timeline import HOUR, MINUTE, SECOND, Entry, Timeline
from dduomq.errors import DduomqError, InvalidSchedule, MessageTooLarge, StorageError
from dduomq.testing.disk import SimFiles
from dduomq.wire import native_schedule
from dduomq.wire.batch import NO_PRODUCER_ID
from tests.delay.helpers import (
    MIB,
    clean_often,
    count_loads,
    crash_once,
    kafka,
    kill,
    one_machine,
    produce,
    same_wheel,
    wheel_log,
    wheel_of,
    wheel_restarts,
    wish,
)
from tests.delay.test_delayed import arrivals, read, running, values

START = 1_700_000_000_000
REPEATED_MS = int(datetime(2024, 10, 27, 1, 5, tzinfo=UTC).timestamp()) * 1000  # 02:05 in Zurich for the second time


def fail_syncs(monkeypatch, part):
    """Files with that in their path can't be synced from now on."""
    sync = SimFiles.sync

    def broken(self, path):
        if part in path:
            raise StorageError("Input/output error")
        sync(self, path)

    monkeypatch.setattr(SimFiles, "sync", broken)


def pair_of(sent):
    """(due, number), as the wheel knows it."""
    _, due_ms, number = sent.delay_id.split("-")
    return int(due_ms), int(number)


# --- alarms and answers ------------------------------------------------------------------------------


async def test_a_wheel_whose_mailbox_is_full_hears_its_alarm(autojump_clock, monkeypatch):
    async with running() as (_, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.send("t", "x", delay=60)
        await trio.sleep(0.5)
        _, wheel = await wheel_of(node, "t")
        post, offered, answered = Mailbox.post, [], []

        def crowded(self, message):
            """As many questions as the mailbox takes come just before the first alarm."""
            if self is wheel and isinstance(message, Alarm) and not offered:
                while wheel.offer(FindDelayed(pair=(1, 1), reply=Reply(lambda _value, error: answered.append(error)))):
                    offered.append(1)
            post(self, message)

        monkeypatch.setattr(Mailbox, "post", crowded)
        await trio.sleep(300)
        assert len(answered) == len(offered) > 1_000
        assert await values(mq) == ["x"]


async def test_open_batches_of_two_targets_are_read_again_in_turn(autojump_clock, monkeypatch):
    """One waits until the other is read, not for an alarm at once, again and again."""
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            other = await same_wheel(node, mq, "t")
            due = machine.clock.wall_ms() + 2_000
            await mq.send("t", "a", deliver_at=due)
            await mq.send(other, "b", deliver_at=due)
            await arrivals(mq, 1)
            await arrivals(mq, 1, topic=other)
            kill(machine)
        on_alarm, alarms = WheelActor._on_alarm, []

        def count(self, message):
            alarms.append(message)
            if len(alarms) > 10_000:
                pytest.fail("a wheel spins: no time passes")
            on_alarm(self, message)

        monkeypatch.setattr(WheelActor, "_on_alarm", count)
        async with running(machine) as (_, _, mq):
            await trio.sleep(1)
            assert len(alarms) < 100
            assert (await values(mq), await values(mq, other)) == (["a"], ["b"])


async def test_who_asks_while_the_log_can_not_be_written_is_answered(autojump_clock):
    async with running() as (machine, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        one = await mq.send("t", "one", delay=5_000)
        two = await mq.send("t", "two", delay=6_000)
        await trio.sleep(1)
        _, wheel = await wheel_of(node, "t")
        answered = []
        machine.platter.faults.is_full = True
        cancel = Reply(lambda _value, _error: answered.append("cancel"))
        assert wheel.offer(CancelDelayed(pair=pair_of(two), reply=cancel))
        later = machine.clock.wall_ms() + 9_000_000
        reschedule = Reply(lambda _value, _error: answered.append("reschedule"))
        assert wheel.offer(Reschedule(pair=pair_of(one), due_ms=later, reply=reschedule))
        await trio.sleep(1)
        machine.platter.faults.is_full = False
        await trio.sleep(60)
        assert sorted(answered) == ["cancel", "reschedule"]


async def test_who_reschedules_when_the_wheel_crashes_is_answered(autojump_clock, monkeypatch):
    async with running() as (_, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        one = await mq.send("t", "one", delay=5_000)
        await trio.sleep(1)
        _, wheel = await wheel_of(node, "t")
        crash_once(monkeypatch, WheelReader, "found")
        answered = []
        reply = Reply(lambda _value, error: answered.append(error))
        assert wheel.offer(Reschedule(pair=pair_of(one), due_ms=START * 2, reply=reply))
        await trio.sleep(60)
        assert wheel_restarts(node) == 1
        (error,) = answered
        assert isinstance(error, DduomqError)
        assert error.retriable


async def test_producers_are_told_that_the_log_of_a_wheel_is_offline(autojump_clock, monkeypatch):
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.send("t", "x", delay=500)
        fail_syncs(monkeypatch, "/__delay-")
        wire = await kafka(machine)
        with trio.fail_after(120):
            for _ in range(3):
                assert await produce(wire, machine, [wish(b"y")], producer=NO_PRODUCER_ID) != 0


async def test_the_topic_of_the_wheels_is_not_to_be_deleted(autojump_clock):
    async with running() as (_, _, mq):
        await mq.send("t", "x", delay=1)
        with pytest.raises(DduomqError):
            await mq.admin.delete_topic("__delay")
        await arrivals(mq, 1)


# --- what is large, damaged or away ------------------------------------------------------------------


async def test_damage_to_a_message_on_its_way_stops_nobody(autojump_clock):
    """Its batch waits for room in its topic; after a restart it can't be read any more."""
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("full", partitions=1, config={"capacity.records": "1"})
            other = await same_wheel(node, mq, "full")
            await mq.send("full", "first")
            await mq.send("full", "damaged" * 10, delay=1)
            await trio.sleep(5)
            kill(machine)
        flipped = 0
        for path, inode in machine.platter.files.inodes.items():
            at = bytes(inode.content).find(b"damageddamaged")
            if "/__delay-" in path and path.endswith(".log") and at >= 0:
                inode.durable[:] = inode.content
                machine.platter.flip(path, at, 1)
                flipped += 1
        assert flipped == 1
        async with running(machine) as (_, node, mq):
            await mq.send(other, "fine", delay=1)
            await arrivals(mq, 1, topic=other)
            await trio.sleep(120)
            assert [status for status in node.actors() if status.restarts] == []
            assert await values(mq, "full") == ["first"]


async def test_a_message_near_the_largest_batch_costs_no_reading_of_the_log(autojump_clock, monkeypatch):
    """It is taken, and comes; the wheel does not start again over it."""
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1, config={"max.message.bytes": str(8 * MIB)})
        await mq.send("t", "x", delay=1_000)
        loads, wire = count_loads(monkeypatch), await kafka(machine)
        for _ in range(3):
            assert await produce(wire, machine, [wish(b"x" * (4 * MIB - 150))], producer=NO_PRODUCER_ID) == 0
            await trio.sleep(2)
        await trio.sleep(70)
        assert loads == []
        assert await mq.admin.count_delayed() == 1
        assert await mq.admin.offset("t", 0, "latest") == 4 + 3  # four holes, three messages


async def test_a_schedule_too_large_is_refused_at_once(autojump_clock, monkeypatch):
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1, config={"max.message.bytes": str(8 * MIB)})
        await mq.send("t", "the wheels are there", delay=1_000)
        loads = count_loads(monkeypatch)
        with trio.fail_after(10), pytest.raises(MessageTooLarge):
            await mq.admin.add_schedule("beat", "t", "x" * 5_000_000, every=10)
        assert loads == []


async def test_an_offline_partition_does_not_let_the_log_grow(autojump_clock, monkeypatch):
    """A message for it waits; the log is cleaned behind it."""
    clean_often(monkeypatch, 4_000, 1_000)
    async with running() as (_, node, mq):
        await mq.admin.create_topic("t", partitions=1, config={"durability": "fsync"})
        await mq.send("t", "x", delay=2)
        other = await same_wheel(node, mq, "t")
        fail_syncs(monkeypatch, "/t-0/")
        with contextlib.suppress(DduomqError):
            await mq.send("t", "y")
        number, _ = await wheel_of(node, "t")
        (state,) = await node.admin.describe("t")
        assert state.state == "offline"
        lengths = []
        for _ in range(5):
            for n in range(100):
                await mq.send(other, str(n), delay=0.01)
            await trio.sleep(20)
            log = await wheel_log(node, number)
            lengths.append(log.log_end_offset - log.log_start_offset)
        assert max(lengths) < 200, lengths  # of 500 messages, each with what was written down of it


@pytest.mark.parametrize("weight", ["headers", "value"])
async def test_cleaning_ends(autojump_clock, monkeypatch, weight):
    """Long messages wait, their weight in their headers or hidden by many short ones: nothing to clean is cleaned."""
    clean_often(monkeypatch, 20_000, 4_000)
    async with running() as (_, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        for _ in range(10):
            if weight == "headers":
                await mq.send("t", "x", delay=100_000, headers={"h": "x" * 4_000})
            else:
                await mq.send("t", "x" * 4_000, delay=100_000)
        if weight == "value":
            for _ in range(300):
                await mq.send("t", "x", delay=0.01)
        number, _ = await wheel_of(node, "t")
        await trio.sleep(60)
        before = (await wheel_log(node, number)).log_end_offset
        await trio.sleep(60)
        assert (await wheel_log(node, number)).log_end_offset - before < 20  # nothing happens in that minute


# --- what one step may take, and what is remembered --------------------------------------------------


@pytest.mark.parametrize("within_ms", [HOUR, MINUTE, 10 * SECOND])
def test_a_crowd_is_broken_up_before_its_time(within_ms):
    """No step works on a slot of more than a crowd, whether it came so or became one when its hour was reached."""
    rng, line = Random(1), Timeline(START)
    begin = (START // HOUR + 1_000) * HOUR

    def check():
        sizes = [len(held) // timeline.FIELDS for slots in line._slots[1:] for held in slots.values()]
        assert max(sizes, default=0) <= timeline.CROWD
        assert len(line) == 100_000

    for number in range(100_000):
        line.add(Entry(begin + rng.randrange(within_ms), number, number, 0))
    check()
    for now_ms in (begin - 2 * HOUR, begin - 10 * SECOND, begin - 2 * SECOND):
        line.reach(now_ms)
        check()
    found = line.pop(begin + within_ms, 100_000)
    assert len(found) == 100_000
    assert found == sorted(found)


def test_a_wheel_remembers_so_many_producers_and_no_more(monkeypatch):
    monkeypatch.setattr(recent, "DELAY_PRODUCERS_MAX", 100)
    known, target = recent.Recent(), Target("t", "00" * 16, 0)
    for producer in range(1_000):
        known.add(target, (producer, 0, 0), [(1, producer)])
    remembered = [producer for producer in range(1_000) if known.find(target, (producer, 0, 0))]
    assert remembered == list(range(900, 1_000))


# --- schedules ---------------------------------------------------------------------------------------


def add_schedule(rule):
    """A request that our client would not make."""
    return native_schedule.AddSchedule("s", "t", 0, None, b"x", (), rule, "UTC", "once", replace=False)


async def test_an_interval_that_no_number_holds_is_refused(autojump_clock):
    async with running() as (_, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        for _ in range(3):
            with pytest.raises(InvalidSchedule):
                await mq.admin._ask(add_schedule("every 999999999999999d"), 5_000)
            await trio.sleep(1)
        assert wheel_restarts(node) == 0


def test_the_next_time_lies_ahead_in_an_hour_that_comes_twice():
    rule = Schedule("s", "cron 30 2 * * *", "Europe/Zurich", Missed.ONCE, 0)
    assert rule.next_after(REPEATED_MS) > REPEATED_MS


@pytest.mark.parametrize("missed", ["once", "skip"])
async def test_an_hour_that_comes_twice_is_no_storm(autojump_clock, missed):
    """By the clock on the wall the schedule's time was an hour ago."""
    async with one_machine() as machine:
        machine.clock.jump(REPEATED_MS - machine.clock.wall_ms())
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            await mq.admin.add_schedule("s", "t", "x", cron="30 2 * * *", timezone="Europe/Zurich", missed=missed)
            await trio.sleep(30)
            assert len(await read(mq, "t")) <= 1
            assert sum(one.log.log_end_offset for one in await node.admin.describe("__delay")) < 20


async def test_a_time_zone_that_is_gone_pauses_its_schedule_alone(autojump_clock, monkeypatch):
    """The next start has other time zones: another image, say."""
    async with one_machine() as machine:
        async with running(machine) as (_, _, mq):
            await mq.admin.create_topic("t", partitions=1)
            await mq.admin.add_schedule("here", "u", "x", cron="* * * * *", timezone="Asia/Tokyo")
            await mq.admin.add_schedule("gone", "t", "x", cron="* * * * *", timezone="Europe/Kyiv")
        zone = schedule.ZoneInfo
        schedule._reader.cache_clear()
        monkeypatch.setattr(schedule, "ZoneInfo", lambda name: zone("No/Such" if name == "Europe/Kyiv" else name))
        async with running(machine) as (_, node, mq):
            await trio.sleep(300)
            assert {one.name: one.is_paused for one in await mq.admin.schedules()} == {"here": False, "gone": True}
            assert len(await read(mq, "u")) >= 4
            assert wheel_restarts(node) == 0


async def test_times_that_a_slow_disk_is_late_for_are_not_all_skipped(autojump_clock):
    """A node that is there all the time: a message every 0.2 s, syncs of up to 0.4 s."""
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.admin.add_schedule("s", "t", "x", every=0.2, missed="skip")
        machine.platter.faults.slowness = 100
        await trio.sleep(120)
        assert await mq.admin.offset("t", 0, "latest") > 20
