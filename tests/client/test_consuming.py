"""Consumers of whole nodes on a virtual clock: each record's work is done once, in order where that is wanted."""

from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random

import anyio
import pytest
import trio

from dduomq.client.client import connect
from dduomq.client.group_events import Assigned, CommitRefused, Committed, Moved, Revoked
from dduomq.client.record import Message
from dduomq.errors import InvalidFilter, OffsetOutOfRange, UnreleasedInstance, UnsupportedAssignor, UsageError
from tests.sim.machine import Machine

PARTITIONS = 4


@asynccontextmanager
async def serving():
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await mq.admin.create_topic("t", partitions=PARTITIONS)
            yield machine, mq
        nursery.cancel_scope.cancel()


async def fill(mq, first, last, *, topic="t", partition=None):
    for number in range(first, last):
        where = number % PARTITIONS if partition is None else partition
        await mq.send(topic, str(number), key=f"k{number % 7}", partition=where)


async def collect(consumer, events):
    """Note what happens to a consumer."""
    async for event in consumer.events():
        events.append(event)  # there is no end of them


async def until(happened):
    for _ in range(5_000):
        if happened():
            return
        await trio.sleep(0.05)
    raise AssertionError("it did not happen")


def value(record):
    return int(record.raw_value)


@asynccontextmanager
async def consuming(machine, seen, *, seed=5, handle=None, **options):
    """A consumer with a connection of its own that notes what it works on."""
    async with (
        connect("sim:6086", dial=machine.network.dial_client, rng=Random(seed), wall_ms=machine.clock.wall_ms) as mq,
        mq.consumer("t", group="g", **options) as consumer,
        anyio.create_task_group() as tasks,
    ):

        async def work():
            async for record in consumer:
                if handle is not None:
                    await handle(record)
                seen.append(value(record))

        tasks.start_soon(work)
        yield consumer
        tasks.cancel_scope.cancel()


async def test_members_share_and_nothing_is_read_twice(autojump_clock):
    """They come and go while records flow; whoever gives up a partition has committed what it did."""
    async with serving() as (machine, mq):
        seen = []
        async with consuming(machine, seen, seed=1) as one:
            await fill(mq, 0, 40)
            await until(lambda: len(seen) == 40)
            assert len(one.assignment) == PARTITIONS
            async with consuming(machine, seen, seed=2) as two:
                await until(lambda: len(one.assignment) == len(two.assignment) == 2)
                assert not set(one.assignment) & set(two.assignment)
                await fill(mq, 40, 80)
                await until(lambda: len(seen) == 80)
            await until(lambda: len(one.assignment) == PARTITIONS)
            await fill(mq, 80, 120)
            await until(lambda: len(seen) == 120)
        assert sorted(seen) == list(range(120))
        assert sum((await mq.admin.group_offsets("g")).values()) == 120


async def test_whoever_leaves_in_good_order_has_done_what_it_was_given(autojump_clock):
    async with serving() as (_, mq):
        await fill(mq, 0, 10, partition=0)
        async with mq.consumer("t", group="g") as consumer:
            async for record in consumer:
                if value(record) == 4:
                    break
        assert await mq.admin.group_offsets("g") == {("t", 0): 5}
        described = await mq.admin.describe_group("g")
        assert (described.state, described.members) == ("Empty", ())


async def test_an_error_in_the_loop_leaves_its_record_undone(autojump_clock):
    async with serving() as (_, mq):
        await fill(mq, 0, 10, partition=0)

        async def fail_at_4():
            async with mq.consumer("t", group="g") as consumer:
                async for record in consumer:
                    if value(record) == 4:
                        raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail_at_4()
        assert await mq.admin.group_offsets("g") == {("t", 0): 4}


async def test_by_hand(autojump_clock):
    """Acks in any order; only what has nothing undone before it is committed."""
    async with serving() as (_, mq):
        await fill(mq, 0, 10, partition=0)
        async with mq.consumer("t", group="g", auto_ack=False, auto_commit=False) as consumer:
            records = []
            while len(records) < 10:
                records += await consumer.pull()
            for at in (1, 2, 5):
                await records[at].ack()
            await consumer.commit()
            assert await mq.admin.group_offsets("g") == {("t", 0): 0} or await mq.admin.group_offsets("g") == {}
            await records[0].ack()
            await records[0].ack()
            await consumer.commit()
            assert await mq.admin.group_offsets("g") == {("t", 0): 3}
            for record in records:
                await record.ack()
        assert await mq.admin.group_offsets("g") == {("t", 0): 3}  # nobody said commit


async def test_a_slow_handler_is_not_thrown_out(autojump_clock):
    """Its heartbeats go on while it works ten times as long as a session."""
    async with serving() as (machine, mq):
        seen = []

        async def work_long(_record):
            await trio.sleep(450)

        await fill(mq, 0, 1, partition=0)
        async with consuming(machine, seen, seed=1, handle=work_long) as consumer:
            await until(lambda: consumer.assignment)
            await trio.sleep(440)
            assert not seen
            assert len((await mq.admin.describe_group("g")).members) == 1
            await trio.sleep(20)
            assert seen == [0]


async def test_a_member_that_falls_silent_loses_its_partitions_and_knows(autojump_clock):
    """Nobody else gets them before; afterwards it commits nothing, and joins again when it can."""
    async with serving() as (machine, _):
        is_silent = False

        class Silenced:
            def __init__(self, transport):
                self.transport = transport

            async def send(self, data):
                if is_silent:
                    await trio.sleep_forever()
                await self.transport.send(data)

            async def receive(self, max_bytes):
                return await self.transport.receive(max_bytes)

            async def aclose(self):
                await self.transport.aclose()

        async def dial(host, port):
            return Silenced(await machine.network.dial_client(host, port))

        events, seen = [], []
        async with (
            connect("sim:6086", dial=dial, rng=Random(9), wall_ms=machine.clock.wall_ms) as other,
            other.consumer("t", group="g", session_timeout=6.0, on_lost=lambda parts: events.append(parts)) as silent,
            consuming(machine, seen, seed=3) as lively,
        ):
            await until(lambda: len(silent.assignment) == len(lively.assignment) == 2)
            is_silent = True
            begun = trio.current_time()
            await until(lambda: len(lively.assignment) == PARTITIONS)
            assert trio.current_time() - begun > 2
            assert silent.assignment == []
            assert len(events) == 1
            is_silent = False


async def test_an_assignment_that_comes_after_the_session_is_not_taken(autojump_clock):
    """A member that had nothing slept on the answer that gave it something: the group has gone on without it."""
    async with serving() as (machine, mq):
        await mq.admin.create_topic("single", partitions=1)
        awake, assigned = trio.Event(), []
        awake.set()

        class Dozing:
            def __init__(self, transport):
                self.transport = transport

            async def send(self, data):
                await self.transport.send(data)

            async def receive(self, max_bytes):
                data = await self.transport.receive(max_bytes)
                await awake.wait()
                return data

            async def aclose(self):
                await self.transport.aclose()

        async def dial(host, port):
            return Dozing(await machine.network.dial_client(host, port))

        async def own(leave):
            async with mq.consumer("single", group="g") as owner:
                await until(lambda: owner.assignment)
                await leave.wait()

        leave = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(own, leave)
            await trio.sleep(1)
            async with (
                connect("sim:6086", dial=dial, rng=Random(9), wall_ms=machine.clock.wall_ms) as other,
                other.consumer("single", group="g", session_timeout=2.0, on_assign=assigned.append) as sleeper,
            ):
                await trio.sleep(1)
                awake = trio.Event()
                leave.set()
                await trio.sleep(3)
                async with mq.consumer("single", group="g") as third:
                    await until(lambda: third.assignment)
                    awake.set()
                    await trio.sleep(3)
                    assert third.assignment
                    assert assigned == sleeper.assignment == []


async def test_handlers_keep_each_partitions_order(autojump_clock):
    """One that fails is called again in its place, with back-off; others go on."""
    async with serving() as (_, mq):
        await fill(mq, 0, 40)
        seen, failures = [], {5: 2, 6: 1}

        async def handler(record):
            number = value(record)
            await trio.sleep(0.01 * (number % 3))
            if failures.get(number, 0) > 0:
                failures[number] -= 1
                raise RuntimeError("not yet")
            seen.append((record.partition, number))
            if len(seen) == 40:
                scope.cancel()

        async with mq.consumer("t", group="g") as consumer:
            with anyio.CancelScope() as scope:
                await consumer.run(handler, concurrency=3, ordered="partition", backoff=0.1)
        for partition in range(PARTITIONS):
            numbers = [number for at, number in seen if at == partition]
            assert numbers == sorted(numbers)
        assert len(seen) == 40


async def test_a_handler_that_fails_for_good_ends_the_consumer(autojump_clock):
    """Nothing behind its record is committed."""
    async with serving() as (_, mq):
        await fill(mq, 0, 10, partition=0)
        tries = []

        async def handler(record):
            if value(record) == 3:
                tries.append(trio.current_time())
                raise ValueError("never")

        with pytest.raises(ValueError, match="never"):
            async with mq.consumer("t", group="g") as consumer:
                await consumer.run(handler, concurrency=4, ordered="partition", retries=2, backoff=1.0)
        assert [round(b - a) for a, b in pairwise(tries)] == [1, 2]
        assert await mq.admin.group_offsets("g") == {("t", 0): 3}


async def test_more_handlers_than_partitions_each_key_in_order(autojump_clock):
    async with serving() as (_, mq):
        await fill(mq, 0, 70, partition=0)
        seen, busy, most = [], 0, 0

        async def handler(record):
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            await trio.sleep(0.05)
            busy -= 1
            seen.append((record.key, value(record)))
            if len(seen) == 70:
                scope.cancel()

        async with mq.consumer("t", group="g") as consumer:
            with anyio.CancelScope() as scope:
                await consumer.run(handler, concurrency=5, ordered="key")
        assert most == 5
        for key in {key for key, _ in seen}:
            numbers = [number for at, number in seen if at == key]
            assert numbers == sorted(numbers)
        assert await mq.admin.group_offsets("g") == {("t", 0): 70} or (await mq.admin.group_offsets("g"))["t", 0] >= 65


async def test_handlers_may_be_plain_functions(autojump_clock):
    """They run in a thread: the clock of this test does not wait for those, so there are few."""
    async with serving() as (_, mq):
        await fill(mq, 0, 3, partition=0)
        seen = []

        async with mq.consumer("t", group="g") as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: consumer.run(lambda record: seen.append(value(record))))
            await until(lambda: len(seen) == 3)
            tasks.cancel_scope.cancel()
        assert seen == [0, 1, 2]


async def test_seeking_moves_the_group_back_on_purpose(autojump_clock):
    async with serving() as (_, mq):
        await fill(mq, 0, 10, partition=0)
        async with mq.consumer("t", group="g") as consumer:
            seen = []
            async for record in consumer:
                seen.append(value(record))
                if seen == list(range(10)):
                    await consumer.commit()
                    await consumer.seek("t", 0, 7)
                if len(seen) == 12:
                    break
        assert seen[10:] == [7, 8]
        assert await mq.admin.group_offsets("g") == {("t", 0): 9}


async def test_paused_partitions_wait(autojump_clock):
    async with serving() as (_, mq), mq.consumer("t", group="g") as consumer:
        consumer.pause("t", 0)
        await fill(mq, 0, 8)
        seen = []
        while records := await consumer.pull(timeout=5):
            seen += map(value, records)
        assert sorted(seen) == [1, 2, 3, 5, 6, 7]
        consumer.resume("t", 0)
        while records := await consumer.pull(timeout=5):
            seen += map(value, records)
        assert sorted(seen) == list(range(8))
        with pytest.raises(UsageError):
            consumer.pause("t", 99)


async def test_a_filter_is_passed_by_commits(autojump_clock):
    """What does not match counts as done."""
    async with serving() as (_, mq):
        for number in range(20):
            await mq.send("t", str(number), partition=0, tag="even" if number % 2 == 0 else "odd")
        for wish, wanted in (("even", list(range(0, 20, 2))), ("TAG = 'odd'", list(range(1, 20, 2))), ("none", [])):
            async with mq.consumer("t", group=f"g-{wish}", filter=wish) as consumer:
                seen = []
                while records := await consumer.pull(timeout=3):
                    seen += map(value, records)
                assert seen == wanted
            assert await mq.admin.group_offsets(f"g-{wish}") == {("t", 0): 20}
        with pytest.raises(InvalidFilter):
            async with mq.consumer("t", group="g", filter="a = ") as consumer:
                await consumer.pull()
        assert (await mq.admin.describe_group("g")).members == ()  # it has left, all the same


async def test_only_the_newest_of_each_key(autojump_clock):
    async with serving() as (_, mq):
        await mq.send_batch("t", [Message(str(n), key=f"k{n % 3}") for n in range(30)], partition=0)
        async with mq.consumer("t", group="g", latest_only=True) as consumer:
            assert [value(record) for record in await consumer.pull()] == [27, 28, 29]
            await consumer.pull(timeout=0.1)
        assert await mq.admin.group_offsets("g") == {("t", 0): 30}


async def test_no_faster_and_no_more_than_wanted(autojump_clock):
    async with serving() as (_, mq):
        await fill(mq, 0, 20, partition=0)
        async with mq.consumer("t", group="g", rate=2.0) as consumer:
            begun = trio.current_time()
            async for record in consumer:
                if value(record) == 19:
                    break
            assert trio.current_time() - begun == pytest.approx(9.5, abs=1)
        await mq.admin.delete_group("g")
        async with mq.consumer("t", group="g", auto_ack=False, max_in_flight=3) as consumer:
            held = [await anext(consumer) for _ in range(3)]
            with trio.move_on_after(5):
                await anext(consumer)
                raise AssertionError("a fourth one came")
            await held[0].ack()
            assert value(await anext(consumer)) == 3


async def test_broadcast_keeps_its_own_place(autojump_clock, tmp_path):
    """Everybody reads everything; after a restart each goes on where it was."""
    async with serving() as (_, mq):
        await fill(mq, 0, 12)
        for again in range(2):
            for name in ("one", "two"):
                options = {"mode": "broadcast", "offsets_file": str(tmp_path / name)}
                async with mq.consumer("t", **options) as consumer:
                    seen = []
                    while records := await consumer.pull(timeout=3):
                        seen += map(value, records)
                assert sorted(seen) == list(range(again * 12, again * 12 + 12))
            await fill(mq, 12, 24)
        assert await mq.admin.list_groups() == []
        await mq.admin.delete_topic("t")
        await mq.admin.create_topic("t", partitions=PARTITIONS)
        await fill(mq, 0, 40)
        async with mq.consumer("t", mode="broadcast", offsets_file=str(tmp_path / "one")) as consumer:
            assert len(await consumer.pull(timeout=3)) > 0
            while await consumer.pull(timeout=3):
                pass
            assert [consumer.position("t", at) for at in range(PARTITIONS)] == [10] * PARTITIONS
        (tmp_path / "one").write_text("nonsense")
        with pytest.raises(UsageError, match="does not hold"):
            async with mq.consumer("t", mode="broadcast", offsets_file=str(tmp_path / "one")):
                pass


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_consumers_outlive_a_node(autojump_clock, end):
    """They go on when it is back; in one ownership no record is handed out twice."""
    async with trio.open_nursery() as nursery:
        machine, seen, leave = Machine(nursery), [], trio.Event()

        async def consume(task_status):
            async with consuming(machine, seen, seed=7):
                task_status.started()
                await leave.wait()

        async with trio.open_nursery() as living:
            async with machine.node():
                async with machine.client() as mq:
                    await mq.admin.create_topic("t", partitions=PARTITIONS)
                    await fill(mq, 0, 20)
                await living.start(consume)
                await until(lambda: len(seen) == 20)
                if end == "kill":
                    machine.platter.kill()
                machine.network.crash()
            await trio.sleep(3)
            async with machine.node(), machine.client() as mq:
                await fill(mq, 20, 40)
                await until(lambda: len(seen) == 40)
                assert sorted(seen) == list(range(40))
                leave.set()
                await trio.sleep(2)
                assert sum((await mq.admin.group_offsets("g")).values()) == 40
        nursery.cancel_scope.cancel()


async def test_what_happens_is_told(autojump_clock):
    async with serving() as (machine, mq):
        await fill(mq, 0, 4)
        events, calls = [], []
        callbacks = {
            f"on_{name}": lambda parts, name=name: calls.append((name, len(parts))) for name in ("assign", "revoke")
        }
        async with consuming(machine, [], seed=1, **callbacks) as one:  # noqa: SIM117  # it outlives the listening
            async with trio.open_nursery() as listening:
                listening.start_soon(collect, one, events)
                await trio.sleep(3)
                async with consuming(machine, [], seed=2) as two:
                    await until(lambda: len(one.assignment) == len(two.assignment) == 2)
                await until(lambda: len(one.assignment) == PARTITIONS)
                await trio.sleep(1)
                listening.cancel_scope.cancel()
        kinds = [type(event) for event in events]
        assert kinds == [Assigned, Committed, Revoked, Assigned]
        assert calls == [("assign", 4), ("revoke", 2), ("assign", 2), ("revoke", 4)]


async def test_what_was_removed_is_skipped(autojump_clock):
    """Retention was faster than the group: it goes on at what there is, and says so."""
    async with serving() as (_, mq):
        await fill(mq, 0, 10, partition=0)
        async with mq.consumer("t", group="g") as consumer:
            async for record in consumer:
                if value(record) == 2:
                    break
        await mq.admin.purge("t", 0, 6)
        events = []
        async with mq.consumer("t", group="g") as consumer, trio.open_nursery() as listening:
            listening.start_soon(collect, consumer, events)
            assert value(await anext(consumer)) == 6
            await trio.sleep(0.1)
            listening.cancel_scope.cancel()
        assert Moved(("t", 0), 6) in events


async def test_a_commit_behind_the_start_is_refused(autojump_clock):
    """Retention overtook a slow member: its commit would point at nothing, so the group's progress stays as it was."""
    async with serving() as (_, mq):
        await fill(mq, 0, 10, partition=0)
        events = []
        async with (
            mq.consumer("t", group="g", auto_commit=False) as consumer,
            trio.open_nursery() as listening,
        ):
            listening.start_soon(collect, consumer, events)
            first, second = await anext(consumer), await anext(consumer)
            await first.ack()
            await consumer.commit()
            await mq.admin.purge("t", 0, 6)
            await second.ack()
            await consumer.commit()
            await trio.sleep(0.1)
            (refused,) = (event for event in events if isinstance(event, CommitRefused))
            assert (refused.partition, refused.offset) == (("t", 0), 2)
            assert isinstance(refused.error, OffsetOutOfRange)
            assert (await mq.admin.group_offsets("g"))[("t", 0)] == 1
            listening.cancel_scope.cancel()
        async with mq.consumer("t", group="g") as consumer:
            assert value(await anext(consumer)) == 6


@pytest.mark.parametrize("after", [0.0, 0.01, 0.2, 0.26, 0.3, 0.5, 1.1, 2.0, 4.0])
async def test_cancelled_anywhere_it_leaves_in_good_order(autojump_clock, after):
    async with serving() as (machine, mq):
        await fill(mq, 0, 20)
        with trio.move_on_after(after):
            async with mq.consumer("t", group="g") as consumer:
                async for _ in consumer:
                    await trio.sleep(0.1)
        await trio.sleep(0.5)
        assert sum(group.members for group in await mq.admin.list_groups()) == 0
        seen = []
        async with consuming(machine, seen, seed=8):
            await trio.sleep(10)
        committed = sum((await mq.admin.group_offsets("g")).values())
        assert committed == 20
        assert len(seen) <= 20


async def test_start_positions(autojump_clock):
    async with serving() as (_, mq):
        await fill(mq, 0, 10, partition=0)
        for start, first in (("earliest", 0), (6, 6)):
            async with mq.consumer("t", group=f"g{start}", start=start) as consumer:
                assert value(await anext(consumer)) == first
        async with mq.consumer("t", group="latest", start="latest") as consumer:
            await fill(mq, 10, 11, partition=0)
            assert value(await anext(consumer)) == 10


async def test_patterns(autojump_clock):
    """Topics that come later are read, too."""
    async with serving() as (_, mq):
        await mq.admin.create_topic("a-one", partitions=1)
        async with mq.consumer(pattern="a-.*", group="g") as consumer:
            await mq.send("a-one", "1")
            assert (await anext(consumer)).topic == "a-one"
            await mq.send("a-two", "2")
            assert (await anext(consumer)).topic == "a-two"


async def test_two_processes_with_one_name(autojump_clock):
    async with serving() as (machine, mq):
        async with mq.consumer("t", group="g", instance_id="one"):
            with pytest.raises(UnreleasedInstance):
                async with consuming(machine, [], seed=4, instance_id="one"):
                    pass
        async with consuming(machine, [], seed=4, instance_id="one") as again:
            assert len(again.assignment) == PARTITIONS


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"group": ""},
        {"group": "g", "offsets_file": "x"},
        {"mode": "broadcast", "group": "g"},
        {"mode": "other", "group": "g"},
        {"group": "g", "credits": 0},
        {"group": "g", "rate": 0},
        {"group": "g", "max_in_flight": 0},
        {"group": "g", "isolation": "none"},
    ],
)
async def test_what_does_not_go_together_is_told(autojump_clock, options):
    async with serving() as (_, mq):
        with pytest.raises(UsageError):
            async with mq.consumer("t", **options):
                pass


async def test_mistakes_that_the_broker_finds(autojump_clock):
    async with serving() as (_, mq):
        with pytest.raises(UnsupportedAssignor):
            async with mq.consumer("t", group="g", assignor="nope"):
                pass
        with pytest.raises(UsageError):
            async with mq.consumer("t", group="g") as consumer:
                await consumer.run(print, ordered="never")
        assert [group.members for group in await mq.admin.list_groups()] in ([], [0])


@pytest.mark.parametrize("after", [0.1, 0.3, 1.0, 2.5])
async def test_cancelled_with_its_connection_it_leaves_in_good_order(autojump_clock, after):
    """What it has done is committed, by the connection that is cancelled with it."""
    async with serving() as (machine, mq):
        await fill(mq, 0, 20)
        seen, at = [], []
        with trio.move_on_after(after):
            async with (
                connect(
                    "sim:6086", dial=machine.network.dial_client, rng=Random(3), wall_ms=machine.clock.wall_ms
                ) as other,
                other.consumer("t", group="g") as consumer,
            ):
                async for record in consumer:
                    at.append(value(record))
                    await trio.sleep(0.1)
                    seen.append(value(record))
        await trio.sleep(0.5)
        assert sum(group.members for group in await mq.admin.list_groups()) == 0
        committed = sum((await mq.admin.group_offsets("g")).values()) if at else 0
        assert committed == len(seen)


async def test_a_topic_that_is_deleted_and_made_again(autojump_clock):
    """Its records are read from its own beginning."""
    async with serving() as (_, mq):
        await fill(mq, 0, 8)
        async with mq.consumer("t", group="g") as consumer:
            seen = []
            while records := await consumer.pull(timeout=3):
                seen += map(value, records)
            assert sorted(seen) == list(range(8))
            await mq.admin.delete_topic("t")
            await mq.admin.create_topic("t", partitions=PARTITIONS)
            await fill(mq, 100, 104)
            seen = []
            for _ in range(10):
                seen += map(value, await consumer.pull(timeout=3))
            assert sorted(seen) == list(range(100, 104))
        assert await mq.admin.group_offsets("g") == {("t", at): 1 for at in range(PARTITIONS)}


async def test_work_that_has_not_begun_does_not_begin_when_all_is_lost(autojump_clock):
    """A member that the broker has put out has handlers waiting: they wait in vain."""
    async with serving() as (_, mq):
        await fill(mq, 0, 10, partition=0)
        begun = []

        async def handler(record):
            begun.append(value(record))
            await trio.sleep(2)

        async with mq.consumer("t", group="g") as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: consumer.run(handler))
            await until(lambda: begun)
            [member] = (await mq.admin.describe_group("g")).members
            await mq.admin.remove_member("g", member.member_id)
            await trio.sleep(60)
            tasks.cancel_scope.cancel()
        assert begun[0] == 0
        assert sorted(begun[1:]) == begun[1:] == list(range(begun[1], 10))
        assert begun[1] <= 1
