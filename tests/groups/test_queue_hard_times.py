"""Queues through what seldom happens: words that come late or twice, connections that break, groups without members."""

from contextlib import asynccontextmanager
from random import Random

import trio

from dduomq.actors import coordinator, coordinator_aside, coordinator_queue
from dduomq.actors.actor import Mailbox
from dduomq.actors.coordinator_aside import SettingAside
from dduomq.actors.coordinator_handover import Handover
from dduomq.actors.coordinator_queue_messages import FitQueue
from dduomq.errors import LeaderNotAvailable, NetworkError, OutcomeUnknown
from dduomq.listeners import taking
from dduomq.testing.atlas import damage_log
from dduomq.wire.native_queue import QueueHeartbeat, TakeRecords
from tests.client.test_queue import fill, losing, members, node_of, numbers, running, serving, state, stop_taking
from tests.groups.test_coordinator_share import from_the_beginning, offsets, topic

ACCEPT, RELEASE, REJECT, RENEW = 1, 2, 3, 4
LOCK_S = 30
HOUR_S = 3_600
SESSION_S = 45


# --- one member at a time ---------------------------------------------------------------------------


async def test_a_connection_that_is_found_dead_late(autojump_clock):
    """The member goes on by a new one. What it has taken there is its own when the old one ends."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one, two = await from_the_beginning(machine, "one", "two")
        assert (await one.fetch(records=0))["error_code"] == 0
        old = one.wire
        await one.connect()
        assert offsets(await one.take()) == list(range(10))
        await old.aclose()
        assert await two.take(wait_ms=2_000) == []
        assert await one.acknowledge((0, 9, ACCEPT)) == (0, 0)


async def test_a_session_that_is_begun_by_another_connection(autojump_clock):
    """What the member had by the old one goes to others, and the old one is told that it has no session any more."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one, two = await from_the_beginning(machine, "one", "two")
        assert offsets(await one.take()) == list(range(10))
        old, session = one.wire, one.session
        await one.connect()
        assert (await one.fetch(records=0))["error_code"] == 0
        assert await two.take(wait_ms=2_000) == [(at, 2) for at in range(10)]
        one.wire = old
        assert await one.acknowledge((0, 9, ACCEPT), session=session) == (122, None)


async def test_news_of_the_log_that_come_late(autojump_clock, monkeypatch):
    """A member finds that records were deleted; before that is known, others have gone on: what they did stays."""
    put, held = Mailbox.put, []

    async def slowly(self, message):
        if isinstance(message, FitQueue) and not held:
            held.append(message)
            await trio.sleep(1)
        await put(self, message)

    monkeypatch.setattr(Mailbox, "put", slowly)
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq, count=30)
        one, two = await from_the_beginning(machine, "one", "two")
        await mq.admin.purge("t", 0, 5)
        found = []

        async def wait():
            found.extend(await one.take(wait_ms=3_000))

        async with trio.open_nursery() as waiting:
            waiting.start_soon(wait)
            await trio.sleep(0.2)
            assert held
            await mq.send_batch("t", [b"x"] * 10)
            assert offsets(await two.take(wait_ms=500)) == list(range(5, 40))
            assert await two.acknowledge((5, 39, ACCEPT)) == (0, 0)
        assert found == []


async def test_a_nack_that_is_said_again_is_about_one_delivery(autojump_clock, monkeypatch):
    """Its answer was lost, and the record is back already: it stays where it is."""
    async with serving(count=1) as (_machine, mq), mq.queue("t", group="g", auto_ack=False) as queue:
        [first] = await queue.pull()
        losing(monkeypatch, queue._life, 0.1, is_told=True)
        async with trio.open_nursery() as saying:
            saying.start_soon(first.nack)
            [again] = await queue.pull()
            assert again.delivery_count == 2
        await trio.sleep(1)
        assert (await state(mq), list(queue._life.waiting)) == ((0, 1, 1, 0), [])
        await again.ack()


async def test_an_ack_of_what_has_come_again(autojump_clock, monkeypatch):
    """The nack before, whose answer was lost, is on its way still: it is the ack that counts."""
    async with serving(count=1) as (_machine, mq), mq.queue("t", group="g", auto_ack=False) as queue:
        [first] = await queue.pull()
        losing(monkeypatch, queue._life, 0.1, is_told=True)
        async with trio.open_nursery() as saying:
            saying.start_soon(first.nack)
            [again] = await queue.pull()
            await again.ack()
        assert await queue.pull(timeout=5) == []
        assert await state(mq) == (1, 1, 0, 0)


async def test_what_was_given_back_and_comes_again(autojump_clock, monkeypatch):
    """That it was given back is said again, for the answer was lost: not of what the member has by then."""
    async with serving(count=5) as (_machine, mq), mq.queue("t", group="g", prefetch=5) as queue:
        await trio.sleep(1)
        [working] = await queue.pull(max_records=1)
        losing(monkeypatch, queue._life, 2 * LOCK_S / 3 + 0.1, is_told=True)
        await trio.sleep(LOCK_S)
        assert working.offset == 0
        found = []
        while len(found) < 4:
            found += await queue.pull(max_records=1)
            await trio.sleep(1)
        assert sorted(numbers(found)) == [1, 2, 3, 4]
        assert await queue.pull(timeout=5) == []


async def test_who_is_in_doubt_takes_nothing(autojump_clock, monkeypatch):
    """What a member says to have is so when it comes to the broker: nothing was given to it meanwhile."""
    async with serving(count=0) as (machine, mq), members(machine, 1) as (one,):
        post = one._life._post

        async def slowly(body, timeout_ms):
            if isinstance(body, QueueHeartbeat) and body.held is not None:
                await trio.sleep(1)
            return await post(body, timeout_ms)

        monkeypatch.setattr(one._life, "_post", slowly)
        ask, lost = one._life._ask, []

        async def lose_one(body, timeout_ms):
            if isinstance(body, TakeRecords) and not lost:
                lost.append(body)
                raise OutcomeUnknown("lost")
            return await ask(body, timeout_ms)

        monkeypatch.setattr(one._life, "_ask", lose_one)
        while not lost:  # noqa: ASYNC110  # the client has no event for it
            await trio.sleep(0.01)
        await trio.sleep(0.5)
        await fill(mq, 0, 5)
        found = await one.pull()
        await trio.sleep(3)
        assert (len(found), len(one._life.waiting), (await state(mq))[2:]) == (5, 0, (5, 0))


async def test_the_longer_renewal_counts(autojump_clock, monkeypatch):
    """An agreed time and the keeping of locks are said in one request."""
    async with serving(count=1) as (machine, _), members(machine, 2, ahead=1, auto_ack=False, prefetch=1) as (one, two):
        [slow] = await one.pull()
        stop_taking(one)
        losing(monkeypatch, one._life, 15)
        await slow.extend(100)
        await one.pull(timeout=1)
        begun = trio.current_time()
        await two.pull()
        assert trio.current_time() - begun > 95


async def test_a_handler_that_must_end_keeps_its_record(autojump_clock):
    """The member is cancelled, its handler goes on for a while, as in a thread: nobody else gets the record."""
    async with serving(count=1) as (machine, mq), machine.client() as other:
        ended = trio.Event()
        other._rng = Random(7)  # each member makes an id of its own

        async def handle(record):
            with trio.CancelScope(shield=True):
                await trio.sleep(4 * LOCK_S)
            ended.set()

        async def work():
            async with mq.queue("t", group="g") as queue:
                await queue.run(handle)

        async with trio.open_nursery() as working:
            working.start_soon(work)
            await trio.sleep(1)
            working.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                async with other.queue("t", group="g") as queue:
                    assert await queue.pull(timeout=3 * LOCK_S) == []
                    assert not ended.is_set()


async def test_who_is_away_after_a_restart_is_out(autojump_clock):
    """It has died with the node: what it has goes to others after its session, however long its lock is."""
    async with running() as machine, node_of(machine) as begin:
        end = await begin()
        async with machine.client() as mq:
            await topic(mq)
            async with mq.queue("t", group="g", lock=HOUR_S, auto_ack=False) as queue:
                assert len(await queue.pull()) == 10
                await end("kill")
        await begin()
        async with machine.client() as mq:
            mq._rng = Random(7)  # each member makes an id of its own
            async with mq.queue("t", group="g") as queue:
                assert len(await queue.pull(timeout=3 * SESSION_S)) == 10


async def test_members_are_members_after_a_restart(autojump_clock):
    """They have records in hand: the group can't be moved, nor be another kind's, before they had time to say so."""
    async with running() as machine:
        async with machine.node():
            async with machine.client() as mq:
                await topic(mq)
                [one] = await from_the_beginning(machine, "one")
                await one.take()
            machine.platter.kill()
            machine.network.crash()
        async with machine.node():
            await one.connect()
            assert await one.beat() == 25
            moved = {"topic_name": "t", "partitions": [{"partition_index": 0, "start_offset": 0}]}
            assert (await one.ask("AlterShareGroupOffsets", topics=[moved]))["error_code"] == 68


# --- nothing is lost, nothing comes again -----------------------------------------------------------


async def test_a_doubt_is_not_forgotten(autojump_clock, monkeypatch):
    """Records were lost on their way with the connection, and the broker could not be reached at once."""
    async with serving(count=0) as (machine, mq), members(machine, 1, lock=600) as (one,):
        losing(monkeypatch, one._life, 8, TakeRecords, is_told=True)
        post, until = one._life._post, trio.current_time() + 15

        async def fail(body, timeout_ms):
            if trio.current_time() < until:
                raise NetworkError("nobody answers")
            return await post(body, timeout_ms)

        monkeypatch.setattr(one._life, "_post", fail)
        await trio.sleep(6)
        await fill(mq, 0, 5)
        found = []
        with trio.fail_after(60):
            while len(found) < 5:
                found += await one.pull()
        assert {record.delivery_count for record in found} == {1}


@asynccontextmanager
async def used_by_a_queue(machine):
    """A group that was a share group, and is free now."""
    async with machine.client() as mq:
        await topic(mq)
        [one] = await from_the_beginning(machine, "one")
        assert await one.take() != []
        assert await one.beat(epoch=-1) == 0
        yield mq


async def test_marks_of_a_group_that_had_queues(autojump_clock):
    """It is a consumer group now, and sets a record aside: that is known after a restart, too."""
    async with running() as machine:
        async with machine.node(), used_by_a_queue(machine) as mq:
            async with mq.consumer("t", group="g", start="earliest", auto_ack=False) as consumer:
                async for record in consumer:
                    if record.offset == 3:
                        await record.reject("nonsense")
                        break
            machine.platter.kill()
            machine.network.crash()
        async with machine.node(), machine.client() as mq:
            found = set()
            async with mq.consumer("t", group="g", start="earliest", auto_ack=False) as consumer:
                with trio.move_on_after(10):
                    async for record in consumer:
                        found.add(record.offset)
        assert found == {*range(10)} - {3}


async def test_a_record_that_waits_for_long(autojump_clock, monkeypatch):
    """Its group has no members meanwhile, for longer than groups are kept: this one is not forgotten."""
    monkeypatch.setattr(coordinator, "OFFSET_RETENTION_MS", HOUR_S * 1_000)
    async with serving(count=2) as (_machine, mq):
        async with mq.queue("t", group="g", auto_ack=False) as queue:
            zero, one = await queue.pull()
            await zero.ack()
            await one.nack(delay=3 * HOUR_S)
        await trio.sleep(3 * HOUR_S)
        async with mq.queue("t", group="g", start="latest") as queue:
            [again] = await queue.pull(timeout=60)
            assert (again.offset, again.delivery_count) == (1, 2)


async def test_damage_stops_nobody(autojump_clock):
    """A batch can't be read any more: the others are worked on, and the members live."""
    async with running() as machine:
        async with machine.node(), machine.client() as mq:
            await mq.admin.create_topic("t", partitions=1)
            await fill(mq, 0, 40)
        machine.platter.kill()
        assert damage_log(machine.platter, ("t",), Random(1)) is not None
        async with machine.node(), machine.client() as mq, mq.queue("t", group="g") as queue:
            found = []
            with trio.move_on_after(120):
                while len(found) < 30:
                    found += numbers(await queue.pull())
            assert len(found) == 30


# --- no work for nothing ----------------------------------------------------------------------------


def counting(monkeypatch, holder, name, most=200):
    """How often it is called; more than `most` times at once take time, so that the story ends."""
    real, calls = getattr(holder, name), []

    async def count(*arguments, **more):
        calls.append(trio.current_time())
        if len(calls) > most:
            await trio.sleep(1)
        return await real(*arguments, **more)

    monkeypatch.setattr(holder, name, count)
    return calls


async def test_more_wait_than_may(autojump_clock, monkeypatch):
    """They wait all the same, and do not ask again and again."""
    monkeypatch.setattr(coordinator_queue, "QUEUE_WATCHERS_MAX", 1)
    calls = counting(monkeypatch, taking, "_take_once")
    async with serving(count=0) as (machine, mq), members(machine, 3) as queues:
        await trio.sleep(60)
        assert len(calls) < 100
        await fill(mq, 0, 1)
        found = []
        with trio.fail_after(10):
            while not found:
                for queue in queues:
                    found += await queue.pull(timeout=0.1)


async def test_a_partition_is_away_while_records_wait(autojump_clock, monkeypatch):
    """The member asks for more now and then, not all the time."""
    ask_all = taking.ask_all

    async def away(services, context, wish, watcher):
        found = await ask_all(services, context, wish, watcher)
        return [
            LeaderNotAvailable("offline") if wanted.partition == 1 else plan
            for wanted, plan in zip(wish.parts, found, strict=True)
        ]

    async with serving(count=2) as (_machine, mq):
        await mq.admin.add_partitions("t", 2)
        monkeypatch.setattr(taking, "ask_all", away)
        async with mq.queue("t", group="g") as queue:
            assert numbers(await queue.pull(max_records=1)) == [0]
            calls = counting(monkeypatch, queue._life, "_take")
            await trio.sleep(10)
            assert len(calls) < 100


async def test_many_reasons(autojump_clock):
    """Thousands of records are refused at once, each with a long reason: more than can be stored at once."""
    count = 8_000
    async with serving(count=count, batch=count) as (_, mq), mq.queue("t", group="g", prefetch=10_000) as queue:
        await trio.sleep(1)
        records = await queue.pull(max_records=count)
        assert len(records) == count
        with trio.fail_after(5):
            async with trio.open_nursery() as refusing:
                for record in records:
                    refusing.start_soon(record.reject, f"{record.offset}: {'x' * 990}")
        assert (await state(mq))[2:] == (0, 0)


async def test_dead_records_that_nobody_takes(autojump_clock, monkeypatch):
    """Where dead letters can't be stored, only so many wait for that in memory; who rejects more is told to wait."""
    bury, waiting = SettingAside.bury, []

    def spy(self, group, place, dead):
        waiting.append(len(self._handover.outbox(group.name, place)))
        return bury(self, group, place, dead)

    monkeypatch.setattr(coordinator_aside, "ASIDE_WAITING_MAX", 10)
    monkeypatch.setattr(Handover, "_target", lambda *_: None)
    monkeypatch.setattr(SettingAside, "bury", spy)
    async with serving(count=100) as (_, mq), mq.queue("t", group="g", prefetch=50) as queue:
        await trio.sleep(1)
        for _ in range(2):
            with trio.move_on_after(10):
                async with trio.open_nursery() as refusing:
                    for record in await queue.pull(50):
                        refusing.start_soon(record.reject, f"no {record.offset}")
        assert len(waiting) == 50  # those of one request, and no more


async def test_queues_of_topics_that_are_no_more(autojump_clock, monkeypatch):
    """They are forgotten, though the group has members all the time."""
    forget, forgotten = coordinator_queue.Queues.forget, []

    def spy(self, group, places):
        forgotten.extend(places)
        forget(self, group, places)

    monkeypatch.setattr(coordinator_queue.Queues, "forget", spy)
    async with serving(count=1) as (_machine, mq):
        await topic(mq, name="other")
        async with mq.queue("t", "other", group="g", auto_ack=False) as queue:
            await queue.pull()
            await mq.admin.delete_topic("other")
            await trio.sleep(2 * coordinator.EXPIRY_INTERVAL_S)
            assert len(forgotten) == 1
