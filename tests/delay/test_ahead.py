"""Messages that are put into their batch a little before their time: never early, each once, whatever comes between."""

import sys
from types import SimpleNamespace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from dduomq.actors.actor import Mailbox
from dduomq.actors.wheel_sending import WheelSending
from dduomq.delay import lead
from dduomq.delay import wheel as wheel_module
from dduomq.delay.lead import LEAD_MS_MAX, LEAD_MS_MIN, Lead
from dduomq.delay.near import Near
from dduomq.delay.records import NEW, NO_ORIGIN, Delivered, Fired, Parked, Target
from dduomq.delay.replay import Replay
from dduomq.delay.wheel import OPEN_MAX, YOUNG_MS, Wheel
from dduomq.errors import DelayedNotFound
from dduomq.limits import DELAY_CACHE_BYTES_MAX
from dduomq.testing.clock import SimClock
from tests.delay.helpers import (
    kafka,
    kill,
    one_machine,
    produce,
    replayed,
    wheel_of,
    wish,
)
from tests.delay.test_delayed import arrivals, running, until, values

START = 1_700_000_000_000
TARGETS = [Target("t", "ab" * 16, n) for n in range(2)]


# --- the machines ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10))))
def test_the_lead_is_bounded_and_covers_what_is_usual(times):
    one = Lead()
    for is_store, seconds in times:
        (one.stored if is_store else one.arrived)(seconds)
        assert LEAD_MS_MIN <= one.ms <= LEAD_MS_MAX
    for _ in range(400):
        one.stored(0.003)
        one.arrived(0.002)
    assert 6 <= one.ms <= 9


def message(due_ms, target=TARGETS[0], value=b"x"):
    return Parked(due_ms, NEW, -1, target, NO_ORIGIN, None, value, [])


def wheel_with(*messages, parked_ms=START):
    """They have been parked long ago."""
    wheel = Wheel(START)
    wheel.parked(messages, 0, parked_ms - YOUNG_MS)
    return wheel


def take(wheel, now_ms, lead_ms=20, limit=100):
    found = wheel.take_due(now_ms, lead_ms, limit, lambda target: target)
    return {to: [entry.number for entry in entries] for to, entries in found.items()}


def test_what_was_parked_just_now_is_taken_when_it_is_due():
    """The batch that it came in may be refused until then; it may be cancelled, too."""
    wheel = wheel_with(message(START + 10))
    wheel.parked([message(START + 10), message(START + 12)], 1, START)
    assert take(wheel, START) == {TARGETS[0]: [0]}
    assert wheel.next_ms(20) == START + 10
    assert [entry.number for entry in wheel.cancel([(START + 10, 1)])] == [1]
    assert (take(wheel, START + 11), wheel.next_ms(20)) == ({}, START + 12)
    assert take(wheel, START + 12) == {TARGETS[0]: [2]}
    assert wheel.next_ms(20) is None


@pytest.mark.parametrize("jump_ms", [0, -50, -3_600_000])
def test_what_was_parked_just_now_takes_no_memory_for_long(jump_ms):
    """Also when nothing falls due for years, and when the clock is set back: then all of it is as new."""
    wheel, now_ms = Wheel(START), START
    for number in range(5_000):
        if number == 2_500:
            now_ms += jump_ms
        wheel.parked([message(START + 10**9)], number, now_ms + number // 10)
        assert len(wheel._young) <= YOUNG_MS + 1
    now_ms += 5_000 // 10
    wheel.parked([message(now_ms + 10)], 5_000, now_ms)
    assert take(wheel, now_ms) == {}
    assert take(wheel, now_ms + 10) == {TARGETS[0]: [5_000]}
    assert wheel._first_young(now_ms + YOUNG_MS) == sys.maxsize


def test_who_has_waited_long_enough_is_taken_before_its_time():
    wheel = wheel_with(message(START + 500))
    assert take(wheel, START + 479) == {}
    assert wheel.next_ms(20) == START + 480
    assert take(wheel, START + 480) == {TARGETS[0]: [0]}


def test_a_target_has_so_many_batches_on_their_way_and_the_rest_is_held():
    wheel = wheel_with(*(message(START + n) for n in range(5)))
    ((to, entries),) = wheel.take_due(START + 10, 0, 3, lambda target: target).items()
    fired = [wheel.fired_at(wheel.fire(to, [entry]), 100 + entry.number) for entry in entries[:OPEN_MAX]]
    assert [one.sequence for one in fired] == [0, 1]
    assert wheel.room(to) == 0
    wheel.hold(to, entries[OPEN_MAX:])
    assert take(wheel, START + 10) == {}
    assert wheel.count == 5
    assert wheel.is_on_its_way(1)
    assert not wheel.is_on_its_way(2)
    assert wheel.alive([(START + n, n) for n in range(9)]) == set(range(5))
    wheel.delivered(fired[0])
    assert (wheel.room(to), take(wheel, START + 10), wheel.count) == (1, {to: [2, 3, 4]}, 1)


def test_a_long_backlog_is_released_by_the_round_and_not_forgotten(monkeypatch):
    """Also when all that was released is cancelled: then nothing arrives that would release the rest."""
    monkeypatch.setattr(wheel_module, "DELAY_ROUND_MESSAGES_MAX", 3)
    wheel = wheel_with(*(message(START + n) for n in range(12)))
    ((to, entries),) = wheel.take_due(START + 20, 0, 2, lambda target: target).items()
    fired = [wheel.fired_at(wheel.fire(to, [entry]), 100 + entry.number) for entry in entries]
    assert take(wheel, START + 20) == {}
    wheel.delivered(fired[0])
    assert take(wheel, START + 20) == {to: [2, 3, 4]}
    wheel.delivered(fired[1])
    assert len(wheel.cancel((START + n, n) for n in (5, 6, 7))) == 3
    taken = []
    for _ in range(5):
        taken += take(wheel, START + 20).get(to, [])
    assert taken == [8, 9, 10, 11]
    assert wheel.count == 0


@pytest.mark.parametrize("is_kept", [True, False])
def test_batches_go_out_again_under_other_sequences(is_kept):
    wheel = wheel_with(*(message(START + n) for n in range(3)))
    ((to, entries),) = wheel.take_due(START + 10, 0, 9, lambda target: target).items()
    first = wheel.fired_at(wheel.fire(to, entries[:2]), 100)
    second = wheel.fired_at(wheel.fire(to, entries[2:]), 101)
    kept = [first, second] if is_kept else [second]
    again = wheel.fire_again(to, kept, 1, 0)
    assert [(one.epoch, one.sequence, one.pairs) for one in again] == (
        [(1, 0, first.pairs), (1, 2, second.pairs)] if is_kept else [(1, 0, second.pairs)]
    )
    assert [one.fired for one in wheel.open[to]] == again
    assert wheel.sequences[to] == (1, 3 if is_kept else 1)


def test_a_replay_finds_the_last_batches_of_each_target():
    """Those before have arrived. Of one whose record was moved the last place counts; an epoch ends those before it."""

    def opened(*more):
        replay = Replay(START)
        for number in range(4):
            replay.apply(Parked(START, number, number, TARGETS[0], NO_ORIGIN, None, b"x", []))
        for one in more:
            replay.apply(one)
        open_ = replay.finish().open
        return [(one.fired.offset, one.fired.epoch, one.fired.sequence) for one in open_.get(TARGETS[0], [])]

    def fired(offset, number, epoch=0, sequence=None):
        sequence = number if sequence is None else sequence
        return Fired(offset, TARGETS[0], epoch, sequence, ((START, number),))

    three = [fired(10 + n, n) for n in range(3)]
    assert opened(*three[:1]) == [(10, 0, 0)]
    assert opened(*three) == [(11, 0, 1), (12, 0, 2)]
    assert opened(*three, Delivered((11, 99))) == [(12, 0, 2)]
    assert opened(*three, Delivered((12, 11))) == []
    assert opened(*three, fired(20, 1), fired(21, 2)) == [(20, 0, 1), (21, 0, 2)]
    assert opened(*three, fired(20, 3, epoch=1, sequence=0)) == [(20, 1, 0)]
    assert opened(*three[1:], fired(20, 2, sequence=1), Delivered((11, 12))) == [(20, 0, 1)]


async def test_what_changes_batches_waits_until_nothing_else_does():
    """In the order in which it came; a round or a move that is under way is not disturbed, and no other one begins."""
    sending, done = WheelSending(Mailbox("x"), 0, SimpleNamespace(clock=SimClock()), None, None, None), []
    sending.when_quiet(lambda: done.append("at once"))
    assert done.pop() == "at once"
    sending.is_taking = True
    sending.when_quiet(lambda: done.append("first") or setattr(sending, "is_held", True))
    sending.when_quiet(lambda: done.append("second"))
    sending.go()
    assert (done, sending.is_awaited) == ([], True)
    sending.is_taking = False
    sending.go()
    assert (done, sending.is_awaited) == (["first"], True)
    sending.is_held = False
    sending.go()
    assert (done, sending.is_awaited) == (["first", "second"], False)


def test_no_more_is_kept_near_than_there_is_room_for():
    near, large = Near(), DELAY_CACHE_BYTES_MAX // 3
    messages = [message(START, value=bytes(large)).at(n) for n in range(4)]
    near.keep(messages)
    near.keep(messages)
    assert [n in near for n in range(4)] == [True, True, False, False]
    assert near.room_bytes >= 0
    near.drop(range(4))
    assert near.room_bytes == DELAY_CACHE_BYTES_MAX


# --- whole nodes -------------------------------------------------------------------------------------


@pytest.fixture
def when_fired(monkeypatch):
    """`act(fired)`, set by the test, is called when a batch for `t` is in the log, half a second before it is due."""
    monkeypatch.setattr(lead, "LEAD_MS_MIN", 500)
    monkeypatch.setattr(lead, "LEAD_MS_MAX", 500)
    plain, acts = WheelSending.add, []

    def add(self, fired, messages):
        plain(self, fired, messages)
        if fired.target.topic == "t" and acts:
            acts.pop()(fired)

    monkeypatch.setattr(WheelSending, "add", add)
    return acts


async def test_who_cancels_at_the_last_moment_is_told_that_it_is_on_its_way(autojump_clock, when_fired):
    async with running() as (_, _, mq):
        fired = trio.Event()
        when_fired.append(lambda _: fired.set())
        sent = await mq.send("t", "x", delay=1)
        await fired.wait()
        assert await values(mq) == []
        with pytest.raises(DelayedNotFound, match="on its way"):
            await mq.admin.cancel_delayed(sent.delay_id)
        with pytest.raises(DelayedNotFound, match="on its way"):
            await mq.admin.reschedule(sent.delay_id, delay=9)
        (record,) = await arrivals(mq, 1)
        assert record.timestamp_ms >= until(record)
        with pytest.raises(DelayedNotFound, match="has been delivered"):
            await mq.admin.cancel_delayed(sent.delay_id)


async def test_what_is_being_read_still_counts(autojump_clock, monkeypatch):
    """Nothing is kept in memory; who asks again and again never hears that nothing waits before it has come."""
    monkeypatch.setattr(Near, "keep", lambda self, messages: None)
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(3):
            await mq.send("t", str(n), delay=1 + n * 0.1)
        with trio.fail_after(60):
            while await mq.admin.count_delayed():
                pass
        assert await values(mq) == ["0", "1", "2"]


async def test_what_is_put_off_to_another_time_still_counts(autojump_clock):
    """It is taken out and parked again in one breath, and in no place of the wheel meanwhile."""
    async with running() as (_, _, mq):
        sent, counts = await mq.send("t", "x", delay=60), []

        async def count():
            while True:
                counts.append(await mq.admin.count_delayed())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            delay_id = sent.delay_id
            for n in range(20):
                delay_id = await mq.admin.reschedule(delay_id, delay=60 + n)
            nursery.cancel_scope.cancel()
        assert len(counts) > 20
        assert set(counts) == {1}


@pytest.mark.parametrize("jump_ms", [-3_600_000, -200, 3_600_000])
async def test_a_clock_that_is_set_between_does_not_bring_it_early(autojump_clock, when_fired, jump_ms):
    async with running() as (machine, _, mq):
        when_fired.append(lambda _: machine.clock.jump(jump_ms))
        await mq.send("t", "x", delay=1)
        left_s = max(-jump_ms / 1000, 0)
        await trio.sleep(left_s + 0.5)
        assert await values(mq) == ([] if jump_ms < 0 else ["x"])
        (record,) = await arrivals(mq, 1, within=3)
        assert record.timestamp_ms >= until(record)


async def test_a_clock_that_is_set_back_does_not_let_the_next_ones_wait_for_it(autojump_clock, when_fired):
    """What was to go out before it waits again, and can be found and taken back as before."""
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        fired = trio.Event()
        when_fired.append(lambda _: (machine.clock.jump(-3_600_000), fired.set()))
        await mq.send("t", "x", delay=1)
        await fired.wait()
        await mq.send("t", "y", delay=2)
        (record,) = await arrivals(mq, 1, within=4)
        assert record.raw_value == b"y"
        (waiting,) = [one async for one in mq.admin.delayed("t")]
        assert (waiting.due_ms > machine.clock.wall_ms() + 3_500_000, await mq.admin.count_delayed()) == (True, 1)
        await trio.sleep(3_590)
        assert await values(mq) == ["y"]
        found = await arrivals(mq, 2)
        assert [record.raw_value for record in found] == [b"y", b"x"]
        assert all(record.timestamp_ms >= until(record) for record in found)


@pytest.mark.parametrize("end", ["kill", "power loss", "stop"])
async def test_a_node_that_ends_between_sends_it_when_it_is_due(autojump_clock, when_fired, end):
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            number, _ = await wheel_of(node, "t")
            fired = trio.Event()
            when_fired.append(lambda _: fired.set())
            for n in range(3):
                await mq.send("t", str(n), delay=1 + n * 0.004)
            await fired.wait()
            assert await values(mq) == []
            if end == "kill":
                kill(machine)
            elif end == "power loss":
                machine.platter.lose_power()
                machine.network.crash()
        assert sum(len(open_) for open_ in replayed(machine, number).open.values()) > 0
        machine.clock.jump(-60_000)
        async with running(machine) as (_, _, mq):
            await trio.sleep(30)
            assert await values(mq) == []
            await trio.sleep(40)
            assert await values(mq) == ["0", "1", "2"]


async def test_a_batch_that_is_refused_takes_back_what_is_due_in_a_moment(autojump_clock):
    """Its record's time is wrong, so its partition refuses it; that its message is due so soon changes nothing."""
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1, config={"message.timestamp.after.max.ms": "1000"})
        await mq.send("t", "the wheels are there", delay=1)
        await arrivals(mq, 1)
        wire, too_late = await kafka(machine), machine.clock.wall_ms() + 10**9
        for sequence in range(20):
            records = [wish(b"refused", b"18ms")]
            assert await produce(wire, machine, records, sequence=sequence, timestamp_ms=too_late) != 0
            await trio.sleep(0.1)
        assert await values(mq) == ["the wheels are there"]
