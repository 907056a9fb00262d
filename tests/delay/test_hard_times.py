"""Messages that were lost, doubled, stuck, or there though refused, when several things went wrong at once.

Each of these has happened; `test_delayed` tells the plain stories.
"""

import contextlib

import pytest
import trio

from dduomq.actors.actor import Reply
from dduomq.actors.journal import Journal
from dduomq.actors.wheel_cleaning import WheelCleaning
from dduomq.actors.wheel_messages import FindDelayed
from dduomq.actors.wheel_sending import WheelSending
from dduomq.delay.records import Parked, Target
from dduomq.delay.replay import Replay
from dduomq.delay.wheel import Wheel
from dduomq.errors import DduomqError
from dduomq.wire.batch import HEADER_BYTES, NO_PRODUCER_ID, build, read_header
from dduomq.wire.records import encode
from tests.delay.helpers import (
    clean_often,
    crash_once,
    fail_write,
    kafka,
    kill,
    one_machine,
    produce,
    produce_batch,
    replayed,
    same_wheel,
    wheel_log,
    wheel_of,
    wheel_restarts,
    wish,
)
from tests.delay.test_delayed import arrivals, read, running, until, values

TARGET = Target("t", "00" * 16, 0)


async def test_a_backlog_in_another_order_than_the_log_comes(autojump_clock):
    """Fourteen large messages, the last one parked is due first; all fall due while the node is down."""
    async with one_machine() as machine:
        async with running(machine) as (_, _, mq):
            await mq.admin.create_topic("t", partitions=1)
            for n in range(14):
                await mq.send("t", chr(65 + n) * 900_000, delay=2_000 - n)
            kill(machine)
        await trio.sleep(3_000)
        async with running(machine) as (_, _, mq):
            await trio.sleep(120)
            assert sorted(r.raw_value[:1] for r in await read(mq, "t")) == [bytes([65 + n]) for n in range(14)]


async def test_moved_while_its_batch_is_on_its_way_comes_once(autojump_clock, monkeypatch):
    """The log is cleaned up to behind its `fired` record before the target answers; then the node dies."""
    clean_often(monkeypatch, 4_000, 500)
    send, held = WheelSending._send, []

    def hold_back(self, one):
        if one.fired.target.topic == "slow":
            one.again_at = float("inf")
            held.append((self, one))
        else:
            send(self, one)

    monkeypatch.setattr(WheelSending, "_send", hold_back)
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("slow", partitions=1)
            number, _ = await wheel_of(node, "slow")
            other = await same_wheel(node, mq, "slow")
            await mq.send("slow", "once", delay=0.5)
            for n in range(150):
                await mq.send(other, str(n), delay=0.05)
                await trio.sleep(0.1)
            ((firing, one),) = held
            fired_at = one.fired.offset
            monkeypatch.setattr(WheelSending, "_send", send)
            send(firing, one)  # the target gets it at last
            with trio.fail_after(600):
                while (await wheel_log(node, number)).log_start_offset <= fired_at:
                    await mq.send(other, "more", delay=0.05)
                    await trio.sleep(0.1)
            assert await values(mq, "slow") == ["once"]
            kill(machine)
        async with running(machine) as (_, _, mq):
            await trio.sleep(10)
            assert await values(mq, "slow") == ["once"]


async def test_a_batch_that_arrives_while_its_record_is_moved_has_arrived_for_good(autojump_clock, monkeypatch):
    """Else it is sent again after a restart, what is left of it as new messages."""
    clean_often(monkeypatch, 4_000, 500)
    send, touching, arrived, flush = WheelSending._send, WheelSending.touching, WheelSending._arrived, Journal.flush
    held, moving = [], []

    def hold_back(self, one):
        if one.fired.target.topic == "slow":
            held.append(one)
            one.again_at = float("inf")
        else:
            send(self, one)

    def touch(self, offsets, numbers):
        found = touching(self, offsets, numbers)
        if found and held:
            moving.append(self._journal)
            send(self, held.pop())
        return found

    def arrive(self, one):
        moving.clear()
        arrived(self, one)

    monkeypatch.setattr(WheelSending, "_send", hold_back)
    monkeypatch.setattr(WheelSending, "touching", touch)
    monkeypatch.setattr(WheelSending, "_arrived", arrive)
    monkeypatch.setattr(Journal, "flush", lambda self: None if self in moving else flush(self))
    async with running() as (machine, node, mq):
        await mq.admin.create_topic("slow", partitions=1)
        number, _ = await wheel_of(node, "slow")
        other = await same_wheel(node, mq, "slow")
        due = machine.clock.wall_ms() + 2_000
        for n in range(8):
            await mq.send("slow", f"once {n}", deliver_at=due)
        with trio.fail_after(600):
            while not await values(mq, "slow"):
                await mq.send(other, "more", delay=0.05)
                await trio.sleep(0.1)
        assert len(await values(mq, "slow")) == 8
        await trio.sleep(30)
        assert replayed(machine, number).open == {}


async def test_a_full_topic_whose_last_place_it_took_gets_no_second_one(autojump_clock, monkeypatch):
    """The node died before `delivered` was noted: the batch is sent again, to a topic that is full by now."""
    clean_often(monkeypatch, 3_000, 500)
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("full", partitions=1, config={"capacity.records": "2"})
            other = await same_wheel(node, mq, "full")
            await mq.send("full", "once", delay=1)
            await arrivals(mq, 1, topic="full")
            kill(machine)
        async with running(machine) as (_, _, mq):
            for n in range(200):
                await mq.send(other, str(n), delay=0.05)
                await trio.sleep(0.1)
            await mq.admin.alter_topic("full", {"capacity.records": "100"})
            await trio.sleep(30)
            assert await values(mq, "full") == ["once"]


# --- refused, and sent again -------------------------------------------------------------------------

LARGE = [wish(bytes([65 + n]) * 600_000) for n in range(5)]  # few bytes when compressed


@pytest.mark.parametrize("producer", [NO_PRODUCER_ID, 7])
@pytest.mark.parametrize(("topic", "which"), [("__delay", 1), ("__delay", 2), ("t", 1)])
async def test_a_disk_full_for_a_moment_halves_and_doubles_nothing(autojump_clock, monkeypatch, topic, which, producer):
    """At the parking, at the delivery, and where the rest of the batch goes; the producer tries until it is taken."""
    async with one_machine() as machine:
        async with running(machine) as (_, _, mq):
            await mq.admin.create_topic("t", partitions=1)
            await mq.send("t", "the wheels are there", delay=1)
            await arrivals(mq, 1)
            await trio.sleep(3)
            writes = fail_write(monkeypatch, topic=topic, which=which)
            wire, codes = await kafka(machine), []
            with trio.fail_after(60):
                while not codes or codes[-1]:
                    codes.append(await produce(wire, machine, LARGE, producer=producer, gzip=True))
            assert len(codes) == (2 if which == 1 else 1)
            kill(machine)
        async with running(machine) as (_, _, mq):
            await trio.sleep(100)
            found = await read(mq, "t")
            assert sorted(r.raw_value for r in found) == [*(value for value, _ in LARGE), b"the wheels are there"]
            assert len(writes) > which


@pytest.mark.parametrize("topic", ["__delay", "t"])
async def test_refused_on_a_full_disk_and_not_tried_again_never_comes(autojump_clock, monkeypatch, topic):
    async with one_machine() as machine:
        async with running(machine) as (_, _, mq):
            await mq.admin.create_topic("t", partitions=1)
            fail_write(monkeypatch, topic=topic)
            assert await produce(await kafka(machine), machine, LARGE, producer=NO_PRODUCER_ID, gzip=True) != 0
            await trio.sleep(1)
            kill(machine)
        async with running(machine) as (_, _, mq):
            await trio.sleep(100)
            assert await read(mq, "t") == []


async def test_a_late_duplicate_takes_nothing_back(autojump_clock):
    """It comes again when its partition has forgotten it, and is refused; it was acknowledged before."""
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        wire = await kafka(machine)
        assert await produce(wire, machine, [wish(b"promised")], sequence=0) == 0
        for sequence in range(1, 8):
            assert await produce(wire, machine, [(b"now", [])], sequence=sequence) == 0
        assert await mq.admin.count_delayed() == 1
        assert await produce(wire, machine, [wish(b"promised")], sequence=0) != 0
        await trio.sleep(100)
        assert await values(mq) == ["now"] * 7 + ["promised"]


async def test_a_sequence_that_was_refused_is_free_also_after_a_restart(autojump_clock):
    async with one_machine() as machine:
        async with running(machine) as (_, _, mq):
            await mq.admin.create_topic("t", partitions=1, config={"message.timestamp.after.max.ms": "1000"})
            too_late = machine.clock.wall_ms() + 10**9
            assert await produce(await kafka(machine), machine, [wish(b"refused")], timestamp_ms=too_late) != 0
            await trio.sleep(1)
            assert await mq.admin.count_delayed() == 0
        async with running(machine) as (_, _, mq):
            assert await produce(await kafka(machine), machine, [wish(b"taken")]) == 0
            await trio.sleep(100)
            assert await values(mq) == ["taken"]


async def test_on_its_way_into_the_log_when_the_wheel_crashes_it_is_parked_once(autojump_clock, monkeypatch):
    """The next incarnation must read what is being synced just then, though it lies behind the high watermark."""
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            _, wheel = await wheel_of(node, "t")
            await trio.sleep(1)
            wire, codes = await kafka(machine), []
            machine.platter.faults.slowness = 200  # a sync takes up to 0.8 s

            async def park():
                while not codes or codes[-1]:
                    codes.append(await produce(wire, machine, [wish(b"once")]))
                    await trio.sleep(0.1)

            with trio.fail_after(60):
                async with trio.open_nursery() as inner:
                    inner.start_soon(park)
                    await trio.sleep(0.02)
                    crash_once(monkeypatch, Wheel, "find")
                    assert wheel.offer(FindDelayed(pair=(1, 1), reply=Reply(lambda _value, _error: None)))
            assert wheel_restarts(node) == 1
            machine.platter.faults.slowness = 1
            await trio.sleep(1)
            kill(machine)
        async with running(machine) as (_, _, mq):
            await trio.sleep(100)
            assert await values(mq) == ["once"]


def parked(offset, number, sequence):
    return Parked(9_000_000_000_000, number, offset, TARGET, (7, 0, sequence), None, b"x", [])


def test_messages_that_were_moved_push_no_newer_batch_out_of_memory():
    """Five batches lie behind a newer one since the log was cleaned: the newest is known all the same."""
    replay = Replay(1_700_000_000_000)
    replay.apply(parked(10, 10, 5))
    for n in range(5):
        replay.apply(parked(20 + n, n, n))
    assert replay.finish().recent.find(TARGET, (7, 0, 5)) is not None


def test_a_message_of_which_the_log_has_two_copies_is_known_once():
    """It was moved, and the power went before the log's beginning did."""
    replay = Replay(1_700_000_000_000)
    replay.apply(parked(0, 0, 0))
    replay.apply(parked(5, 0, 0))
    wheel = replay.finish()
    assert wheel.recent.find(TARGET, (7, 0, 0)) == [(9_000_000_000_000, 0)]
    assert wheel.count == 1


# --- what comes with a batch -------------------------------------------------------------------------


async def test_the_rest_of_a_large_batch_is_stored_too(autojump_clock):
    """20 MiB that compress to a few kB, of which one record is to come later."""
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        records = [*((bytes([65 + n]) * 1_000_000, []) for n in range(20)), wish(b"later", b"1s")]
        assert await produce(await kafka(machine), machine, records, gzip=True) == 0
        assert len(await read(mq, "t")) == 20
        await trio.sleep(5)
        assert [r.raw_value for r in await read(mq, "t")] == [value for value, _ in records]


async def test_a_batch_of_holes_is_refused_with_a_wish_or_without(autojump_clock):
    """One record that claims a million offsets."""
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        wire, codes = await kafka(machine), []
        for headers in ([], [("dduomq-delay", b"1s")]):
            plain = encode([(machine.clock.wall_ms(), None, b"x", headers)])
            header = read_header(plain)
            batch = build(
                memoryview(plain)[HEADER_BYTES:], count=1, last_offset_delta=999_998, attributes=0,
                base_timestamp=header.base_timestamp, max_timestamp=header.max_timestamp,
                producer_id=NO_PRODUCER_ID, producer_epoch=-1, base_sequence=-1,
            )  # fmt: skip
            codes.append(await produce_batch(wire, batch))
        assert codes[0] == codes[1] != 0
        await trio.sleep(5)
        assert await read(mq, "t") == []


async def test_who_is_delayed_again_says_once_when_it_was_due(autojump_clock):
    async with running() as (_, _, mq):
        await mq.send("t", "x", delay=1)
        (once,) = await arrivals(mq, 1)
        await mq.send("u", "x", delay=100, headers=dict(once.headers))
        await trio.sleep(99)
        (twice,) = await arrivals(mq, 1, topic="u")
        assert until(twice) > until(once) + 50_000
        assert [name for name, _ in twice.headers] == ["dduomq-delayed-until"]


# --- dead letters ------------------------------------------------------------------------------------


async def test_a_dead_letter_as_large_as_a_message_may_be_rests(autojump_clock):
    """It says where it was to go, so it is larger than it was."""
    async with running() as (machine, _, mq):
        topic = "t" * 100
        await mq.admin.create_topic(topic, partitions=1)
        large = wish(b"x" * 1_048_330, b"5s")
        assert await produce(await kafka(machine), machine, [large], producer=NO_PRODUCER_ID, topic=topic) == 0
        await mq.admin.delete_topic(topic)
        await trio.sleep(600)
        assert [r.raw_value for r in await read(mq, "dlq.delayed")] == [large[0]]


async def test_many_dead_letters_with_a_long_origin_rest(autojump_clock):
    """Small ones, due at once: what is added to each is more than what they were."""
    async with running() as (machine, _, mq):
        topic = "orders." * 10
        await mq.admin.create_topic(topic, partitions=1)
        wire, due = await kafka(machine), str(machine.clock.wall_ms() + 20_000).encode()
        batch = [(b"small", [("dduomq-deliver-at", due)])] * 1_000
        for _ in range(9):
            assert await produce(wire, machine, batch, producer=NO_PRODUCER_ID, topic=topic) == 0
        await mq.admin.delete_topic(topic)
        await trio.sleep(600)
        assert await mq.admin.count_delayed() == 0
        assert len(await read(mq, "dlq.delayed")) == 9_000


async def test_a_batch_whose_topic_goes_before_it_is_sent_rests_whole(autojump_clock, monkeypatch):
    """It was made to fit into its topic; with what a dead letter says it is several."""
    send, topic = WheelSending._send, "t" * 200

    def busy(self, one):
        if one.fired.target.topic == topic and topic in self._world.routes.table:
            self._again(one)
        else:
            send(self, one)

    monkeypatch.setattr(WheelSending, "_send", busy)
    async with running() as (machine, _, mq):
        await mq.admin.create_topic(topic, partitions=1)
        due = str(machine.clock.wall_ms() + 5_000).encode()
        batch = [(b"small", [("dduomq-deliver-at", due)])] * 4_000
        assert await produce(await kafka(machine), machine, batch, producer=NO_PRODUCER_ID, topic=topic) == 0
        await trio.sleep(6)
        await mq.admin.delete_topic(topic)
        await trio.sleep(100)
        assert len(await read(mq, "dlq.delayed")) == 4_000


# --- what an operator may do -------------------------------------------------------------------------


@pytest.mark.parametrize("which", [1, 2, 3])
async def test_a_schedule_outlives_a_full_disk(autojump_clock, monkeypatch, which):
    """Its message and its next one are written together, or not at all."""
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.admin.add_schedule("beat", "t", "x" * 1_048_370, every=10)
        writes = fail_write(monkeypatch, which=which)
        await trio.sleep(65)
        assert [one.name for one in await mq.admin.schedules()] == ["beat"]
        due = [until(record) for record in await read(mq, "t")]
        assert len(due) >= 5
        assert len(due) == len(set(due))
        assert len(writes) > which


@pytest.mark.parametrize("which", [1, 2])
async def test_rescheduled_on_a_full_disk_comes_once(autojump_clock, monkeypatch, which):
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1, config={"max.message.bytes": "2000000"})
        large = wish(b"x" * 1_400_000)
        assert await produce(await kafka(machine), machine, [large], producer=NO_PRODUCER_ID) == 0
        (one,) = [one async for one in mq.admin.delayed()]
        writes = fail_write(monkeypatch, which=which)
        with contextlib.suppress(DduomqError):
            await mq.admin.reschedule(one.delay_id, delay=30)
        await trio.sleep(100)
        assert [r.raw_value for r in await mq.pull("t", offset=1)] == [large[0]]
        assert await mq.admin.offset("t", 0, "latest") == 2  # when it was parked it left a hole
        assert len(writes) > which


async def test_two_that_add_a_schedule_at_once_make_one(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        results = []

        async def add():
            try:
                await mq.admin.add_schedule("beat", "t", "tick", every=10)
                results.append("made")
            except DduomqError as error:
                results.append(type(error).__name__)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(add)
            nursery.start_soon(add)
        await trio.sleep(35)
        assert sorted(results) == ["ScheduleExists", "made"]
        assert await values(mq) == ["tick"] * 3
        await mq.admin.delete_schedule("beat")
        await trio.sleep(100)
        assert await values(mq) == ["tick"] * 3


async def test_two_that_replace_a_schedule_at_once_leave_one(autojump_clock):
    """It is gone when it is deleted."""
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.admin.add_schedule("beat", "t", "old", every=10)

        async def replace(value):
            await mq.admin.add_schedule("beat", "t", value, every=10, replace=True)

        async with trio.open_nursery() as nursery:
            for value in "ab":
                nursery.start_soon(replace, value)
        assert [one.name for one in await mq.admin.schedules()] == ["beat"]
        await mq.admin.delete_schedule("beat")
        await trio.sleep(100)
        assert await values(mq) == []


async def test_arrived_while_its_record_is_moved_comes_once(autojump_clock, monkeypatch):
    """The log is cleaned while a batch is on its way; it arrives before its `fired` record is in the log again. What
    is left of its messages in the log went out once more after a restart."""
    clean_often(monkeypatch, 2_000, 500)
    sent, move, held = WheelSending.sent, WheelCleaning._move, []
    monkeypatch.setattr(WheelSending, "sent", lambda self, message: held.append((self, message)))

    def moving(self, found, next_offset, size):
        move(self, found, next_offset, size)
        if held and size:
            monkeypatch.setattr(WheelSending, "sent", sent)
            for firing, message in held:
                sent(firing, message)
            held.clear()

    async with one_machine() as machine:
        async with running(machine) as (_, _, mq):
            await mq.admin.create_topic("t", partitions=1)
            for n in range(9):
                await mq.send("t", f"{n}" * 50, delay=5)
            await trio.sleep(6)
            monkeypatch.setattr(WheelCleaning, "_move", moving)
            for n in range(100):
                if held:
                    await mq.send("t", f"{n} late", delay=1_000)
            await trio.sleep(2)
            assert not held
            kill(machine)
        async with running(machine) as (_, _, mq):
            await trio.sleep(10)
            assert await values(mq) == [f"{n}" * 50 for n in range(9)]
