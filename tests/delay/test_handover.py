"""Messages that the owner of another log hands over: each comes once, as it was given, whatever happens meanwhile."""

from random import Random

import pytest
import trio

from dduomq.actors.actor import ask
from dduomq.actors.journal import Journal
from dduomq.actors.wheel_messages import Park, ParkedMessages
from dduomq.actors.wheel_sending import WheelSending
from dduomq.delay import records
from dduomq.delay.handover import NUMBER_MAX, is_handed_over, number_of, origin_of
from dduomq.delay.records import NEW, NO_ORIGIN, Handed, Parked, Target
from dduomq.delay.replay import Replay
from dduomq.delay.wheel import Wheel
from dduomq.errors import DduomqError, InvariantBroken
from dduomq.wire.batch import HANDOVER_IDS, OWN_PRODUCER_IDS
from dduomq.wire.records import StoredRecord
from tests.delay.helpers import (
    clean_often,
    crash_once,
    fail_write,
    kill,
    one_machine,
    same_wheel,
    wheel_log,
    wheel_of,
    wheel_restarts,
)
from tests.delay.test_delayed import arrivals, read, running, values

NOW = 1_700_000_000_000
TARGET = Target("t", "00" * 16, 0)
OWNER = HANDOVER_IDS + 3
HEADERS = [("dduomq-delay", b"7d"), ("dduomq-delayed-until", b"1"), ("dduomq-schedule", b"s"), ("a", None)]


# --- the machine -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2**31 - 1, 2**31, 2**31 + 1, NUMBER_MAX])
def test_a_number_finds_room_in_a_record(number):
    origin = origin_of(OWNER, number)
    assert number_of(origin) == number
    assert is_handed_over(origin)
    key, value, headers = records.encode_parked(parked(origin=origin))
    assert records.decode(StoredRecord(5, 0, key, value, headers)).origin == origin
    key, value, headers = records.encode_handed(Handed(OWNER, number))
    assert records.decode(StoredRecord(5, 0, key, value, headers)) == Handed(OWNER, number)


def test_producers_hand_nothing_over():
    assert not any(is_handed_over(origin) for origin in (NO_ORIGIN, (7, 0, 0), (OWN_PRODUCER_IDS + 3, 0, 0)))
    for owner, number in ((7, 0), (OWNER, -1), (OWNER, NUMBER_MAX + 1)):
        with pytest.raises(InvariantBroken):
            origin_of(owner, number)


def parked(number=0, *, origin=None, offset=0, due_ms=9_000_000_000_000, target=TARGET):
    origin = origin_of(OWNER, number) if origin is None else origin
    return Parked(due_ms, NEW if offset < 0 else offset, offset, target, origin, b"k", b"%d" % number, HEADERS)


def test_a_replay_knows_the_highest_number_of_each_owner():
    """Whatever the order of the records, and without a word of the batches before."""
    replay = Replay(NOW)
    replay.apply(Handed(OWNER + 1, 80))
    for offset, number in enumerate((4, 5, 2**31 + 7, 3)):
        replay.apply(parked(number, offset=offset))
    replay.apply(Handed(OWNER, 6))
    wheel = replay.finish()
    assert wheel.handed == {OWNER: 2**31 + 7, OWNER + 1: 80}
    assert wheel.known([parked(2**31 + 7)]) == wheel.known([parked(0), parked(0)]) == []
    assert wheel.known([parked(2**31 + 8)]) is None
    assert wheel.known([parked(origin=origin_of(OWNER + 2, 0))]) is None
    assert wheel.recent.find(TARGET, origin_of(OWNER, 4)) is None


# --- whole nodes -------------------------------------------------------------------------------------


async def hand(node, number, *, due_ms=0, topic="t", count=1, owner=OWNER):
    """What an owner does once; it may end in an error, and must be done again then."""
    target = Target(topic, node.services.routes.table[topic].record.topic_id, 0)
    _, wheel = await wheel_of(node, topic)
    messages = tuple(
        Parked(due_ms, NEW, -1, target, origin_of(owner, number), b"k", b"%d" % (number + n), HEADERS)
        for n in range(count)
    )
    deadline = trio.current_time() + 5
    return await ask(wheel, lambda reply: Park(messages=messages, deadline=deadline, reply=reply))


async def until_answered(node, number, **how):
    while True:
        try:
            return await hand(node, number, **how)
        except DduomqError:
            await trio.sleep(0.1)


AGAIN = ParkedMessages((), is_new=False)


async def test_it_comes_as_it_was_given(autojump_clock):
    async with running() as (machine, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        due_ms = machine.clock.wall_ms() + 5_000
        answer = await hand(node, 0, due_ms=due_ms, count=3)
        assert (len(answer.pairs), answer.is_new) == (3, True)
        assert await mq.admin.count_delayed() == 3
        await trio.sleep(4)
        assert await values(mq) == []
        found = await arrivals(mq, 3, within=2)
        assert machine.clock.wall_ms() >= due_ms
        assert [r.raw_value for r in found] == [b"0", b"1", b"2"]
        for record in found:
            assert list(record.headers) == HEADERS
            assert record.timestamp_ms >= due_ms


async def test_what_comes_again_is_parked_once(autojump_clock):
    """Also when more is in it, or it is for somewhere else; a number above it is another batch."""
    async with running() as (_, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        other = await same_wheel(node, mq, "t")
        assert (await hand(node, 2**31 + 5)).is_new
        assert await hand(node, 2**31 + 5) == AGAIN
        assert await hand(node, 2**31 + 5, count=7, topic=other) == AGAIN
        assert await hand(node, 3) == AGAIN
        assert (await hand(node, 3, owner=OWNER + 1)).is_new
        for number in range(2**31 + 6, 2**31 + 20):
            assert (await hand(node, number)).is_new
        assert await hand(node, 2**31 + 5) == AGAIN
        await arrivals(mq, 16)
        await trio.sleep(5)
        assert len(await values(mq)) == 16
        assert await values(mq, other) == []


async def test_what_comes_again_while_it_is_on_its_way_into_the_log_is_parked_once(autojump_clock):
    async with running() as (machine, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        other = await same_wheel(node, mq, "t")
        await wheel_of(node, "t")
        await trio.sleep(1)
        machine.platter.faults.slowness = 200
        answers = []

        async def ask_for(topic):
            answers.append((trio.current_time(), await hand(node, 0, topic=topic)))

        async with trio.open_nursery() as nursery:
            for topic in ("t", "t", other):
                nursery.start_soon(ask_for, topic)
        assert len({at for at, _ in answers}) == 1  # when it is in the log, not before
        assert sorted(answer.is_new for _, answer in answers) == [False, False, True]
        machine.platter.faults.slowness = 1
        await trio.sleep(5)
        assert len(await values(mq) + await values(mq, other)) == 1


@pytest.mark.parametrize("end", ["stop", "kill", "power loss"])
async def test_it_is_known_after_a_restart(autojump_clock, end):
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            assert (await hand(node, 7, due_ms=machine.clock.wall_ms() + 30_000)).is_new
            if end == "power loss":
                machine.platter.lose_power()
                machine.network.crash()
            elif end == "kill":
                kill(machine)
        async with running(machine) as (_, node, mq):
            assert await hand(node, 7) == AGAIN  # also when it comes before the log is read
            assert (await hand(node, 8)).is_new
            await arrivals(mq, 2)
            await trio.sleep(30)
            assert await values(mq) == ["7", "8"]


async def test_it_is_known_when_the_log_has_been_cleaned_of_it(autojump_clock, monkeypatch):
    """Twice, so that what was written down instead is cleaned away, too; one that waits is moved."""
    clean_often(monkeypatch, 3_000, 500)
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            number, _ = await wheel_of(node, "t")
            other = await same_wheel(node, mq, "t")
            due_ms = machine.clock.wall_ms() + 10_000_000
            assert (await hand(node, 70, due_ms=due_ms, owner=OWNER + 1)).is_new
            assert (await hand(node, 7)).is_new
            await arrivals(mq, 1)
            for _ in range(2):
                end = (await wheel_log(node, number)).log_end_offset
                with trio.fail_after(600):
                    while (await wheel_log(node, number)).log_start_offset <= end:
                        await mq.send(other, "more", delay=0.05)
                        await trio.sleep(0.1)
            assert await hand(node, 7) == AGAIN
            kill(machine)
        async with running(machine) as (_, node, mq):
            assert await hand(node, 7) == await hand(node, 70, owner=OWNER + 1) == AGAIN
            assert (await hand(node, 8)).is_new
            assert (await hand(node, 71, owner=OWNER + 1)).is_new
            await trio.sleep(10)
            assert await values(mq) == ["7", "71", "8"]
            await trio.sleep(10_000)
            assert await values(mq) == ["7", "70", "71", "8"]
            assert all(list(record.headers) == HEADERS for record in await read(mq, "t"))


async def test_one_that_is_rescheduled_comes_as_it_was_given(autojump_clock):
    async with running() as (machine, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        await hand(node, 0, due_ms=machine.clock.wall_ms() + 5_000_000)
        (one,) = [one async for one in mq.admin.delayed()]
        await mq.admin.reschedule(one.delay_id, delay=5)
        (record,) = await arrivals(mq, 1)
        assert list(record.headers) == HEADERS
        assert await hand(node, 0) == AGAIN


async def test_one_whose_topic_is_gone_becomes_a_dead_letter_that_keeps_its_headers(autojump_clock):
    async with running() as (machine, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        await hand(node, 0, due_ms=machine.clock.wall_ms() + 5_000)
        await mq.admin.delete_topic("t")
        (record,) = await arrivals(mq, 1, topic="dlq.delayed")
        assert list(record.headers)[: len(HEADERS)] == HEADERS
        assert record.header("dduomq-origin-topic") == b"t"


# --- faults at each moment ---------------------------------------------------------------------------


@pytest.mark.parametrize("which", [1, 2, 3])
async def test_a_disk_that_is_full_for_a_moment_loses_and_doubles_nothing(autojump_clock, monkeypatch, which):
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            await wheel_of(node, "t")
            await trio.sleep(1)
            writes = fail_write(monkeypatch, which=which)
            for number in range(3):
                await until_answered(node, number)
                await trio.sleep(0.1)
            kill(machine)
        async with running(machine) as (_, _, mq):
            await trio.sleep(60)
            assert await values(mq) == ["0", "1", "2"]
            assert len(writes) > which


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (Wheel, "known"),
        (Journal, "flush"),
        (Journal, "stored"),
        (Wheel, "parked"),
        (Wheel, "fire"),
        (WheelSending, "_send"),
        (WheelSending, "_arrived"),
    ],
)
async def test_a_wheel_that_crashes_loses_and_doubles_nothing(autojump_clock, monkeypatch, owner, method):
    """Before the log has it, before the owner has its answer, before and after it is on its way."""
    async with running() as (_, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        await wheel_of(node, "t")
        await trio.sleep(1)
        for number in range(4):
            if number == 1:
                crash_once(monkeypatch, owner, method)
            await until_answered(node, number)
            await trio.sleep(0.5)
        await trio.sleep(60)
        assert wheel_restarts(node) == 1
        assert await values(mq) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("seed", range(12))
async def test_an_owner_that_repeats_until_it_is_answered_through_kills_and_cleaning(
    autojump_clock, monkeypatch, seed
):  # fmt: skip
    """The node ends again and again, at any moment; each number comes once."""
    clean_often(monkeypatch, 2_000, 500)
    rng, answered, number = Random(seed), 0, 0
    async with one_machine() as machine:
        while number < 60:
            async with running(machine) as (_, node, mq):
                if "t" not in node.services.routes.table:
                    await mq.admin.create_topic("t", partitions=1)
                machine.platter.faults.slowness = rng.choice((1, 1, 50))
                with trio.move_on_after(rng.random() * rng.choice((0.05, 1.0, 3.0))):
                    while number < 60:
                        due_ms = machine.clock.wall_ms() + rng.randrange(-5, 3_000)
                        answer = await until_answered(node, number, due_ms=due_ms)
                        answered += answer.is_new
                        number += 1
                if rng.random() < 0.3:
                    machine.platter.lose_power()
                    machine.network.crash()
                else:
                    kill(machine)
        machine.platter.faults.slowness = 1
        async with running(machine) as (_, _, mq):
            await trio.sleep(60)
            assert sorted(map(int, await values(mq))) == list(range(60))
