"""Queues of whole nodes on a virtual clock: what members do with records, and what becomes of these."""

import math
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from random import Random

import pytest
import trio

from dduomq.client.interceptor import Interceptor
from dduomq.client.queue_life import QueueLife
from dduomq.client.queue_record import QueueRecord
from dduomq.client.queue_words import Words
from dduomq.errors import NodeStopping, OutcomeUnknown, RecordNotHeld, UsageError
from dduomq.wire.native_queue import ACCEPT, REJECT, RELEASE, RETURN, SettleRecords, TakeRecords
from tests.sim.machine import Machine

COUNT = 50
LOCK_S, GRACE_S = 30, 3


@asynccontextmanager
async def running():
    """A machine on which nodes may live, one after another."""
    async with trio.open_nursery() as nursery:
        yield Machine(nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(count=COUNT, batch=10):
    """(machine, a client) with `count` records, by their numbers, in topic t."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await mq.admin.create_topic("t", partitions=1)
        await fill(mq, 0, count, batch)
        yield machine, mq


async def fill(mq, first, last, batch=10):
    for at in range(first, last, batch):
        await mq.send_batch("t", [str(n) for n in range(at, min(at + batch, last))])


@asynccontextmanager
async def members(machine, count, *, ahead=0, **options):
    """Queues, each with a client of its own; `ahead`: the first one has so many records before the others come."""
    async with AsyncExitStack() as stack:
        queues = []
        for at in range(count):
            mq = await stack.enter_async_context(machine.client())
            mq._rng = Random(at)  # each member makes an id of its own
            queues.append(await stack.enter_async_context(mq.queue("t", group="g", **options)))
            while len(queues[0]._life.waiting) < ahead:  # noqa: ASYNC110  # the client has no event for it
                await trio.sleep(0.01)
        yield queues


def stop_taking(queue):
    """The member asks for no more records; what it has it has."""
    queue._life._parts.clear()


@asynccontextmanager
async def node_of(machine):
    """A node in a task of its own: `end(way)` ends it, another one may be begun inside the same block."""

    async def live(ended, gone, task_status):
        async with machine.node():
            task_status.started()
            await ended.wait()
        gone.set()

    async with trio.open_nursery() as nursery:

        async def begin():
            ended, gone = trio.Event(), trio.Event()
            await nursery.start(live, ended, gone)

            async def end(way):
                getattr(machine.platter, {"kill": "kill", "power": "lose_power"}[way])()
                machine.network.crash()
                ended.set()
                await gone.wait()

            return end

        yield begin
        nursery.cancel_scope.cancel()


def numbers(records):
    return [int(record.value) for record in records]


async def state(mq):
    """(start, end, acquired, waiting) of the only queue."""
    [part] = (await mq.admin.describe_queue("g")).parts
    return part.start, part.end, part.acquired, part.waiting


# --- records ----------------------------------------------------------------------------------------


async def test_each_record_is_worked_on_by_one_member(autojump_clock):
    """Three members on one partition, with records that take their time; each has a share of them."""
    async with serving() as (machine, _mq), members(machine, 3, prefetch=4) as queues:
        seen = []

        async def work(at, queue):
            async for record in queue:
                await trio.sleep(0.1)
                seen.append((at, int(record.value), record.delivery_count))
                if len(seen) >= COUNT:
                    working.cancel_scope.cancel()

        async with trio.open_nursery() as working:
            for at, queue in enumerate(queues):
                working.start_soon(work, at, queue)
        assert sorted(n for _, n, _ in seen) == list(range(COUNT))
        assert {count for _, _, count in seen} == {1}
        assert min(Counter(at for at, _, _ in seen).values()) > COUNT // 6


async def test_what_a_member_says_of_records(autojump_clock):
    """Acked ones are done, nacked ones come again after their delay, rejected ones don't."""
    async with serving(count=4) as (_, mq), mq.queue("t", group="g", auto_ack=False) as queue:
        zero, one, two, three = await queue.pull()
        assert (one.delivery_count, one.value) == (1, b"1")
        await zero.ack()
        await one.nack(delay=5, error=ValueError("no such customer"))
        await two.reject("nonsense")
        await three.nack()
        begun = trio.current_time()
        [again] = await queue.pull()
        assert (again.offset, again.delivery_count) == (3, 2)
        assert trio.current_time() - begun < 0.5
        [later] = await queue.pull()
        assert (later.offset, later.delivery_count) == (1, 2)
        assert trio.current_time() - begun == pytest.approx(5, abs=0.3)
        await again.ack()
        await later.ack()
        assert await queue.pull(timeout=10) == []
        assert await state(mq) == (4, 4, 0, 0)


async def test_a_record_is_settled_once(autojump_clock):
    """Whatever was said first stays; the second word is the caller's mistake."""
    async with serving(count=2) as (_, mq), mq.queue("t", group="g", auto_ack=False) as queue:
        zero, one = await queue.pull()
        await zero.ack()
        for word in (zero.ack, zero.nack, zero.reject, zero.extend):
            with pytest.raises(UsageError, match="acked already"):
                await word()
        await one.nack()
        with pytest.raises(UsageError, match="nacked already"):
            await one.ack()
        with pytest.raises(UsageError, match="at least 0"):
            await (await queue.pull())[0].extend(-1)


async def test_a_lock_that_was_lost(autojump_clock):
    """Where nobody keeps it, another member gets the record; the first one's ack says so."""
    async with serving(count=1) as (machine, _), members(machine, 2, ahead=1, auto_ack=False, prefetch=1) as (one, two):
        [late] = await one.pull()
        stop_taking(one)
        assert await one.pull(timeout=1) == []  # what was pulled before is not being worked on any more
        begun = trio.current_time()
        [mine] = await two.pull()
        assert trio.current_time() - begun == pytest.approx(LOCK_S - 1, abs=1)
        assert mine.delivery_count == 2
        with pytest.raises((RecordNotHeld, UsageError)):
            await late.ack()
        assert late.is_lost
        await mine.ack()


async def test_an_agreed_time(autojump_clock):
    """`extend` keeps a record longer than the lock would."""
    async with serving(count=1) as (machine, _), members(machine, 2, ahead=1, auto_ack=False, prefetch=1) as (one, two):
        [slow] = await one.pull()
        stop_taking(one)
        await slow.extend(100)
        await one.pull(timeout=1)
        begun = trio.current_time()
        [again] = await two.pull()
        assert trio.current_time() - begun == pytest.approx(99, abs=2)
        await again.ack()


async def test_locks_are_kept_while_the_work_goes_on(autojump_clock):
    """However long a record takes, nobody else gets it: in a loop, of a pull, and in handlers."""
    async with serving(count=4, batch=1) as (machine, _mq), members(machine, 2, prefetch=1) as (one, two):
        seen = []

        async def slowly(record):
            await trio.sleep(3.5 * LOCK_S)
            seen.append((int(record.value), record.delivery_count))

        async def loop():
            async for record in one:
                await slowly(record)

        async with trio.open_nursery() as working:
            working.start_soon(loop)
            working.start_soon(lambda: two.run(slowly, concurrency=2))
            await trio.sleep(8 * LOCK_S)
            working.cancel_scope.cancel()
        assert sorted(seen) == [(0, 1), (1, 1), (2, 1), (3, 1)]


async def test_who_is_slow_gives_back_what_waits(autojump_clock):
    """It goes to others before it is late, and does not count as delivered."""
    async with serving(count=20) as (machine, mq), mq.queue("t", group="g", prefetch=20) as slow:
        [first] = await slow.pull(max_records=1)
        assert (first.value, len(slow._life.waiting)) == (b"0", 19)
        found = []
        async with members(machine, 1) as (quick,):
            with trio.move_on_after(2 * LOCK_S):
                while True:
                    found += await quick.pull()
        assert sorted(numbers(found)) == list(range(1, 20))
        assert {record.delivery_count for record in found} == {1}


async def test_leaving_in_order(autojump_clock):
    """What was worked on is done, what was not begun goes to others at once, as if it had never been given out."""
    async with serving(count=10) as (_machine, mq):
        async with mq.queue("t", group="g") as queue:
            assert numbers(await queue.pull(max_records=4)) == [0, 1, 2, 3]
        assert await state(mq) == (4, 10, 0, 6)
        async with mq.queue("t", group="g") as queue:
            found = await queue.pull()
            assert (numbers(found), {record.delivery_count for record in found}) == (list(range(4, 10)), {1})


@pytest.mark.parametrize("way", ["error", "cancelled"])
async def test_leaving_in_disorder(autojump_clock, way):
    """What was being worked on is not done: it comes again at once, and counts."""
    async with serving(count=10) as (_machine, mq):
        with trio.CancelScope() as scope:
            try:
                async with mq.queue("t", group="g") as queue:
                    await queue.pull(max_records=4)
                    if way == "error":
                        raise RuntimeError("planted")
                    scope.cancel()
                    await trio.sleep(1)
            except RuntimeError:
                assert way == "error"
        async with mq.queue("t", group="g") as queue:
            begun = trio.current_time()
            found = await queue.pull()
            assert trio.current_time() - begun < 1
            assert [record.delivery_count for record in found] == [2] * 4 + [1] * 6


async def test_handlers(autojump_clock):
    """One that raises gets the record again, later each time, until its last delivery; others go on meanwhile."""
    async with serving(count=6) as (_, mq), mq.queue("t", group="g", deliveries=3) as queue:
        calls, busy, most = [], 0, 0

        async def handle(record):
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            await trio.sleep(0.5)
            busy -= 1
            calls.append((int(record.value), record.delivery_count, trio.current_time()))
            if record.value == b"3":
                raise ValueError("no")
            if record.value == b"4" and record.delivery_count == 1:
                await record.nack(delay=1)
            if record.value == b"5":
                await record.reject("never")

        with trio.move_on_after(20):
            await queue.run(handle, concurrency=2, backoff=2)
        assert most == 2
        times = Counter(n for n, _, _ in calls)
        assert times == {0: 1, 1: 1, 2: 1, 3: 3, 4: 2, 5: 1}
        first, second, third = (at for n, _, at in calls if n == 3)
        assert second - first == pytest.approx(2.5, abs=0.6)
        assert third - second == pytest.approx(4.5, abs=0.6)
        assert await state(mq) == (6, 6, 0, 0)


async def test_handlers_in_threads():
    """A plain function is called in a thread, and its error is one like any other. (Threads need real time.)"""
    async with serving(count=3) as (_, mq), mq.queue("t", group="g") as queue:
        calls = []

        def handle(record):
            calls.append((int(record.value), record.delivery_count))
            if record.delivery_count == 1 and record.value == b"1":
                raise ValueError("not yet")

        with trio.move_on_after(30):
            async with trio.open_nursery() as working:
                working.start_soon(lambda: queue.run(handle, backoff=0.1))
                while len(calls) < 4:  # noqa: ASYNC110  # threads can't set an event of trio's
                    await trio.sleep(0.01)
                working.cancel_scope.cancel()
        assert sorted(calls) == [(0, 1), (1, 1), (1, 2), (2, 1)]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"prefetch": 0}, "prefetch"), ({"prefetch": 20_000}, "prefetch"), ({"lock": 0.01}, "lock"),
        ({"lock": 10**6}, "lock"), ({"deliveries": 0}, "deliveries"), ({"start": "now"}, "starts"),
        ({"group": ""}, "group"),
    ],
)  # fmt: skip
async def test_what_makes_no_sense(autojump_clock, options, word):
    async with serving(count=0) as (_, mq):
        with pytest.raises(UsageError, match=word):
            async with mq.queue("t", **{"group": "g", **options}):
                pytest.fail("it began")


async def test_where_a_queue_begins(autojump_clock):
    """With the first record, with the next one, or at a time; a group that has begun goes on."""
    async with serving(count=3) as (machine, mq):
        await trio.sleep(100)
        at = datetime.fromtimestamp(machine.clock.wall_ms() / 1000, UTC)
        await fill(mq, 3, 5)
        found = {}
        for name, start in (("earliest", "earliest"), ("time", at), ("latest", "latest")):
            async with mq.queue("t", group=name, start=start) as queue:
                found[name] = numbers(await queue.pull(timeout=2))
        assert found == {"earliest": [0, 1, 2, 3, 4], "time": [3, 4], "latest": []}
        await fill(mq, 5, 6)
        async with mq.queue("t", group="latest", start="earliest") as queue:
            assert numbers(await queue.pull(timeout=2)) == [5]


async def test_holes_are_nobodys(autojump_clock):
    """Offsets without records, of delayed messages, are passed; the message comes when it is due."""
    async with serving(count=2) as (_, mq):
        await mq.send("t", "later", delay=5)
        await fill(mq, 2, 4)
        async with mq.queue("t", group="g") as queue:
            found = []
            while len(found) < 5:
                found += [record.value for record in await queue.pull()]
            assert found == [b"0", b"1", b"2", b"3", b"later"]
        assert (await state(mq))[2:] == (0, 0)


class Even(Interceptor):
    """Shows even numbers only."""

    def before_consume(self, record):
        return record if int(record.value) % 2 == 0 else None


async def test_what_an_interceptor_hides_is_done(autojump_clock):
    async with serving(count=6) as (_, mq):
        mq._interceptors = (Even(),)
        async with mq.queue("t", group="g") as queue:
            assert numbers(await queue.pull()) == [0, 2, 4]
        assert await state(mq) == (6, 6, 0, 0)


async def test_new_partitions_are_worked_on(autojump_clock):
    """A topic that grows while members are at work."""
    async with serving(count=1) as (machine, mq), mq.queue("t", group="g") as queue:
        assert numbers(await queue.pull()) == [0]
        await mq.admin.add_partitions("t", 2)
        async with machine.client() as other:
            await other.send_batch("t", ["7"], partition=1)
        with trio.fail_after(20):
            assert numbers(await queue.pull()) == [7]


# --- in doubt ---------------------------------------------------------------------------------------


def losing(monkeypatch, life, seconds, kind=SettleRecords, *, is_told=False):
    """For some seconds none of the member's requests of a kind come through; or none of their answers."""
    ask, until = life._ask, trio.current_time() + seconds

    async def lose(body, timeout_ms):
        if isinstance(body, kind) and trio.current_time() < until:
            if is_told:
                await ask(body, timeout_ms)
            raise OutcomeUnknown("lost")
        return await ask(body, timeout_ms)

    monkeypatch.setattr(life, "_ask", lose)
    monkeypatch.setattr(life.words, "_ask", lose)


async def test_an_ack_that_is_late_is_asked_for(autojump_clock, monkeypatch):
    """The lock expires while the ack is lost again and again: the broker asks, and the record is done."""
    async with serving(count=1) as (machine, mq), members(machine, 2, ahead=1, auto_ack=False) as (one, two):
        [record] = await one.pull()
        losing(monkeypatch, one._life, LOCK_S + 1)
        begun = trio.current_time()
        await record.ack()
        assert LOCK_S < trio.current_time() - begun < LOCK_S + GRACE_S
        assert await two.pull(timeout=2 * LOCK_S) == []
        assert await state(mq) == (1, 1, 0, 0)


async def test_who_is_still_at_work_is_asked(autojump_clock, monkeypatch):
    """It says so, and keeps the record."""

    async def keep_nothing(_life):
        await trio.sleep_forever()

    monkeypatch.setattr(QueueLife, "keep_locks", keep_nothing)
    async with serving(count=1) as (machine, _mq), members(machine, 2, ahead=1, auto_ack=False) as (one, two):
        [record] = await one.pull()
        assert await two.pull(timeout=2.5 * LOCK_S) == []
        await record.ack()
        assert await two.pull(timeout=2 * LOCK_S) == []


async def test_who_does_not_answer_loses_the_record(autojump_clock, monkeypatch):
    """After the grace it is another one's, not before."""
    async with serving(count=1) as (machine, _mq), members(machine, 2, ahead=1, auto_ack=False) as (one, two):
        await one.pull()
        stop_taking(one)
        losing(monkeypatch, one._life, math.inf)
        begun = trio.current_time()
        [mine] = await two.pull()
        assert trio.current_time() - begun == pytest.approx(LOCK_S + GRACE_S, abs=1)
        await mine.ack()


async def test_answers_that_are_lost(autojump_clock, monkeypatch):
    """The ack was stored, its answer was lost: it is said again, and known to have been heard, while the lock lasts."""
    async with serving(count=2) as (machine, _mq), members(machine, 2, ahead=2, auto_ack=False) as (one, two):
        zero, first = await one.pull()
        losing(monkeypatch, one._life, 0.1, is_told=True)
        await zero.ack()
        stop_taking(one)
        await one.pull(timeout=1)  # nobody keeps the lock of the other one
        losing(monkeypatch, one._life, LOCK_S + 1, is_told=True)
        with pytest.raises(OutcomeUnknown):
            await first.ack()
        assert await two.pull(timeout=2 * LOCK_S) == []


async def test_a_question_that_an_answer_has_overtaken_is_passed(autojump_clock):
    """The record may have been given to us again by then: what is said of it now would end that."""
    async with serving(count=1) as (machine, _mq), members(machine, 1, ahead=1, auto_ack=False) as (one,):
        [record] = await one.pull()
        record.safe_until = 0.0
        await record.nack(delay=60)
        said, plain = [], one._life.words.say
        one._life.words.say = lambda word: said.append(word.ending.first) or plain(word)
        one._life._clear_up(record.place, record.at, record.at)
        assert said == []
        for _ in range(3):
            one._life._clear_up(record.place, 77, 77)
            await trio.sleep(0.01)
        assert said == [77]
        await trio.sleep(60)
        one._life._clear_up(record.place, 77, 77)
        assert said == [77, 77]


async def test_records_that_never_came(autojump_clock, monkeypatch):
    """What was given out and lost on its way goes back as soon as the member knows; it was not delivered."""
    async with serving(count=0) as (machine, mq), members(machine, 1) as (one,):
        losing(monkeypatch, one._life, 20, TakeRecords, is_told=True)
        begun = trio.current_time()
        await trio.sleep(6)
        await fill(mq, 0, 5)
        found = []
        while len(found) < 5:
            found += await one.pull()
        assert trio.current_time() - begun < LOCK_S
        assert {record.delivery_count for record in found} == {1}


async def test_neighbours_of_a_lost_record_are_settled(autojump_clock, monkeypatch):
    """One request says many words; a wrong one among them harms no other."""
    async with (
        serving(count=10) as (machine, mq),
        members(machine, 2, ahead=10, auto_ack=False) as (one, two),
    ):
        records = await one.pull()
        stop_taking(one)
        await trio.sleep(6)
        await mq._wire.ask(stolen(one, records[4]), 10_000)
        results = {}

        async def ack(record):
            try:
                await record.ack()
                results[record.offset] = None
            except RecordNotHeld as error:
                results[record.offset] = type(error)

        async with trio.open_nursery() as acking:
            for record in records:
                acking.start_soon(ack, record)
        assert results == {at: RecordNotHeld if at == 4 else None for at in range(10)}
        [left] = await two.pull()
        assert (left.offset, left.delivery_count) == (4, 2)
        await left.ack()


def stolen(queue, record):
    """What releases a record behind its member's back."""
    from dduomq.wire.native_queue import RELEASE, RecordEnding, SettlePart

    life = queue._life
    ending = RecordEnding(record.offset, record.offset, RELEASE)
    return SettleRecords("g", life._member_id, (SettlePart(*record.place, (ending,)),))


# --- hard times -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["kill", "power"])
async def test_a_node_that_dies_while_members_work(autojump_clock, way):
    """They go on with the next one: what was acked does not come again, nothing is left over."""
    acked, again, seen = set(), [], set()

    async def handle(record):
        n = int(record.value)
        seen.add(n)
        if n in acked:
            again.append(n)
        await trio.sleep(0.2)
        await record.ack()
        acked.add(n)

    async with running() as machine, node_of(machine) as begin:
        end = await begin()
        async with machine.client() as mq:
            await mq.admin.create_topic("t", partitions=1)
            await fill(mq, 0, COUNT)
            async with members(machine, 2, prefetch=5) as queues, trio.open_nursery() as working:
                for queue in queues:
                    working.start_soon(lambda queue=queue: queue.run(handle, concurrency=2))
                await trio.sleep(1.5)
                assert 0 < len(acked) < COUNT
                await end(way)
                await begin()
                await trio.sleep(2 * LOCK_S)
                assert len(acked) >= COUNT - 4  # as many were being acked when the node died
                assert (seen, again) == (set(range(COUNT)), [])
                assert (await state(mq))[2:] == (0, 0)
                working.cancel_scope.cancel()


async def test_a_coordinator_that_starts_again(autojump_clock, monkeypatch):
    """Members join again under the ids they have, and what they work on stays theirs."""
    async with (
        serving(count=4) as (machine, mq),
        members(machine, 2, ahead=4, auto_ack=False) as (one, two),
    ):
        records = await one.pull()
        assert len(records) == 4

        def fail(*_arguments, **_more):
            monkeypatch.undo()
            raise RuntimeError("planted")

        monkeypatch.setattr("dduomq.actors.coordinator_queue.Queues.describe", fail)
        with suppress(NodeStopping):
            await state(mq)
        assert await two.pull(timeout=2 * LOCK_S) == []
        for record in records:
            await record.ack()
        assert await two.pull(timeout=2 * LOCK_S) == []
        assert await state(mq) == (4, 4, 0, 0)


async def test_the_broker_is_away_for_a_while(autojump_clock):
    """An ack waits until it can be stored."""
    async with running() as machine, node_of(machine) as begin:
        end = await begin()
        async with machine.client() as mq:
            await mq.admin.create_topic("t", partitions=1)
            await fill(mq, 0, 2)
            async with mq.queue("t", group="g", auto_ack=False) as queue:
                zero, one = await queue.pull()
                await end("kill")
                async with trio.open_nursery() as acking:
                    acking.start_soon(zero.ack)
                    await trio.sleep(3)
                    await begin()
                await one.ack()
                assert await state(mq) == (2, 2, 0, 0)


# --- words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "is_refused"), [(ACCEPT, True), (REJECT, True), (RELEASE, False), (RETURN, False)])
async def test_what_is_said_of_a_record_that_has_come_again(autojump_clock, kind, is_refused):
    """What gave it back was heard, or it would not have come; what was to end it was not, and its sayer is told so.

    An ack ended well that the broker never got: the record came again after it.
    """
    record = QueueRecord("t", 0, 5, 0, None, b"", [])
    ended = []

    async def ask(_body, _timeout_ms):
        raise AssertionError("nothing is to be said of it")

    words = Words("g", "m", ask, ended.append, lambda: trio.current_time() + 60, lambda word: word.record is record)
    record.take(("00" * 16, 0), words, 1, trio.current_time(), trio.current_time() + 60)
    word = record.say(kind)
    with trio.move_on_after(1):
        await words.run()
    assert ended == [word]
    assert isinstance(word.error, RecordNotHeld) is is_refused
    assert record.is_lost is is_refused
