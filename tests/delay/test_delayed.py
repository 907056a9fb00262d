"""Delayed messages in whole nodes on a virtual clock: each comes once, never early, whatever happens meanwhile."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
import trio

import dduomq
from dduomq.actors import wheel_cleaning, wheel_sending
from dduomq.actors.actor import ask
from dduomq.actors.wheel_messages import Park
from dduomq.delay.records import NEW, Parked, Target
from dduomq.errors import DduomqError, DelayedNotFound, InvalidDelay, MessageTooLarge, OutOfOrderSequence, UsageError
from dduomq.testing.clock import EPOCH_MS
from dduomq.wire.batch import set_producer
from dduomq.wire.records import encode
from tests.listeners.kafka_wire import KafkaWire
from tests.sim.machine import Machine


@asynccontextmanager
async def running(machine=None):
    async with trio.open_nursery() as nursery:
        machine = machine or Machine(nursery)
        async with machine.node() as node, machine.client() as mq:
            yield machine, node, mq
        nursery.cancel_scope.cancel()


async def read(mq, topic):
    """All that is there."""
    partitions = {one.name: len(one.partitions) for one in await mq.admin.list_topics()}
    found = []
    for at in range(partitions.get(topic, 0)):
        end = await mq.admin.offset(topic, at, "latest")
        start = await mq.admin.offset(topic, at, "earliest")
        while start < end:
            records = await mq.pull(topic, partition=at, offset=start, wait=0.05)
            found += records
            start = records[-1].offset + 1 if records else end
    return found


async def values(mq, topic="t"):
    return sorted(record.raw_value.decode() for record in await read(mq, topic))


async def arrivals(mq, count, *, topic="t", within=60.0):
    """The records once there are so many."""
    with trio.fail_after(within):
        while len(found := await read(mq, topic)) < count:  # noqa: ASYNC110  # it is seen from outside
            await trio.sleep(0.02)
    return found


def until(record):
    return int(record.header("dduomq-delayed-until"))


async def test_it_comes_when_it_is_due_and_not_before(autojump_clock):
    async with running() as (machine, _, mq):
        begun = machine.clock.wall_ms()
        result = await mq.send("t", "later", key="k", headers={"a": "b"}, delay=5.0)
        assert result.delay_id
        assert await values(mq) == []
        await trio.sleep_until(trio.current_time() + 5.0 - (machine.clock.wall_ms() - begun) / 1000 - 0.1)
        assert await values(mq) == []
        (record,) = await arrivals(mq, 1, within=1)
        assert machine.clock.wall_ms() >= until(record) >= begun + 5_000
        assert (record.key, record.raw_value, record.header("a")) == (b"k", b"later", b"b")
        assert record.header("dduomq-delay") is None
        await trio.sleep(5)
        assert await values(mq) == ["later"]


async def test_who_is_not_delayed_keeps_its_place(autojump_clock):
    """A batch of both: each record has the offset of its ack, the delayed one leaves a hole."""
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        messages = [dduomq.Message("a"), dduomq.Message("late", delay=1), dduomq.Message("b")]
        sent = await mq.send_batch("t", messages)
        assert (sent.offset, sent.count) == (0, 3)
        assert [(r.offset, r.raw_value) for r in await mq.pull("t", offset=0)] == [(0, b"a"), (2, b"b")]
        assert [r.offset for r in await arrivals(mq, 3)] == [0, 2, 3]


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_batches_are_looked_through(autojump_clock, compression):
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with (
            machine.node(),
            dduomq.connect("sim:6086", dial=machine.network.dial_client, compression=compression) as mq,
        ):
            now_ms = machine.clock.wall_ms()
            for size in (10, 200_000):
                batch = [dduomq.Message("x" * size, timestamp_ms=now_ms), dduomq.Message("late" + "y" * size, delay=1)]
                await mq.send_batch("t", [attrs_with_time(one, now_ms) for one in batch], partition=0)
            assert [len(r.raw_value) for r in await read(mq, "t")] == [10, 200_000]
            await arrivals(mq, 4)
        nursery.cancel_scope.cancel()


def attrs_with_time(message, now_ms):
    return dduomq.Message(message.value, delay=message.delay, timestamp_ms=now_ms)


@pytest.mark.parametrize("end", ["stop", "kill", "power loss"])
@pytest.mark.parametrize("down_s", [1, 3_600])
async def test_it_outlives_the_node(autojump_clock, end, down_s):
    """What fell due while the node was down comes at its start; nothing comes twice."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            for n in range(20):
                await mq.send("t", f"{n:02}", delay=n * 0.5)
            await arrivals(mq, 4)
            if end == "kill":
                machine.platter.kill()
            elif end == "power loss":
                machine.platter.lose_power()
            machine.network.crash()
        await trio.sleep(down_s)
        async with machine.node(), machine.client() as mq:
            found = await arrivals(mq, 20)
            assert sorted(r.raw_value.decode() for r in found) == [f"{n:02}" for n in range(20)]
            await trio.sleep(10)
            assert len(await values(mq)) == 20
            assert await mq.admin.count_delayed() == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("step", range(40))
async def test_a_crash_at_any_moment_of_the_delivery(autojump_clock, step):
    """Ten messages for two topics fall due at once; power is lost some milliseconds around that."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await mq.admin.create_topic("t", partitions=1)
            await mq.admin.create_topic("u", partitions=1)
            due = machine.clock.wall_ms() + 2_000
            for n in range(10):
                await mq.send("tu"[n % 2], str(n), deliver_at=due)
            await trio.sleep((due - machine.clock.wall_ms()) / 1000 + step * 0.0007)
            machine.platter.lose_power()
            machine.network.crash()
        async with machine.node(), machine.client() as mq:
            await arrivals(mq, 5)
            await arrivals(mq, 5, topic="u")
            await trio.sleep(3)
            assert await values(mq) == ["0", "2", "4", "6", "8"]
            assert await values(mq, "u") == ["1", "3", "5", "7", "9"]
        nursery.cancel_scope.cancel()


async def test_cancelled_never_comes(autojump_clock):
    async with running() as (_, _, mq):
        near = await mq.send("t", "near", delay=2)
        far = await mq.send("t", "far", delay=timedelta(days=400))
        stays = await mq.send("t", "stays", delay=2)
        for one in (near, far):
            await mq.admin.cancel_delayed(one.delay_id)
            with pytest.raises(DelayedNotFound, match=f"no message with the id {one.delay_id} waits"):
                await mq.admin.cancel_delayed(one.delay_id)
        assert [one.delay_id async for one in mq.admin.delayed()] == [stays.delay_id]
        await arrivals(mq, 1)
        await trio.sleep(5)
        assert await values(mq) == ["stays"]
        with pytest.raises(DelayedNotFound):
            await mq.admin.cancel_delayed(stays.delay_id)


async def test_cancelled_stays_cancelled_after_a_power_loss(autojump_clock):
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            gone = await mq.send("t", "gone", delay=3)
            await mq.send("t", "stays", delay=3)
            await mq.admin.cancel_delayed(gone.delay_id)
            machine.platter.lose_power()
            machine.network.crash()
        async with machine.node(), machine.client() as mq:
            await arrivals(mq, 1)
            await trio.sleep(5)
            assert await values(mq) == ["stays"]
        nursery.cancel_scope.cancel()


async def test_another_time(autojump_clock):
    async with running() as (machine, _, mq):
        begun = machine.clock.wall_ms()
        sooner = await mq.send("t", "sooner", delay=timedelta(days=30))
        later = await mq.send("t", "later", delay=1)
        renamed = await mq.admin.reschedule(sooner.delay_id, delay=2)
        await mq.admin.reschedule(later.delay_id, deliver_at=begun + 60_000)
        with pytest.raises(DelayedNotFound):
            await mq.admin.reschedule(sooner.delay_id, delay=2)
        assert renamed in [one.delay_id async for one in mq.admin.delayed("t")]
        (first,) = await arrivals(mq, 1, within=10)
        assert first.raw_value == b"sooner"
        both = await arrivals(mq, 2, within=120)
        assert {until(record) for record in both} >= {begun + 60_000}
        assert await mq.admin.count_delayed() == 0


async def test_the_list(autojump_clock):
    """The earliest first, page by page, of one topic or all."""
    async with running() as (_, _, mq):
        due = []
        for n in range(60):
            topic = "ab"[n % 2]
            due.append((await mq.send(topic, str(n), delay=1000 + 977 * n % 613)).delay_id)
        listed = [one async for one in mq.admin.delayed()]
        assert sorted(one.delay_id for one in listed) == sorted(due)
        assert [one.due_ms for one in listed] == sorted(one.due_ms for one in listed)
        assert [one async for one in mq.admin.delayed("a")] == [one for one in listed if one.topic == "a"]
        assert [one async for one in mq.admin.delayed("nobody")] == []
        assert await mq.admin.count_delayed() == 60


async def test_pages_of_the_list(autojump_clock, monkeypatch):
    monkeypatch.setattr("dduomq.client.delay_admin.PAGE", 7)
    async with running() as (machine, _, mq):
        at = machine.clock.wall_ms() + 100_000
        sent = {(await mq.send("t", str(n), deliver_at=at + n // 10)).delay_id for n in range(50)}
        listed = [one.delay_id async for one in mq.admin.delayed()]
        assert len(listed) == 50
        assert set(listed) == sent


@pytest.mark.parametrize("jump_s", [-1_800, 40, 86_400])
async def test_the_clock_is_set(autojump_clock, jump_s):
    """Forward: what is due then comes at once. Back: it comes when the clock says so. Each comes once."""
    async with running() as (machine, _, mq):
        for n in range(30):
            await mq.send("t", f"{n:02}", delay=1 + n * 2)
        await arrivals(mq, 5)
        machine.clock.jump(jump_s * 1000)
        with trio.fail_after(200_000):
            while len(await values(mq)) < 30:  # noqa: ASYNC110  # the same
                await trio.sleep(50)
        await trio.sleep(100)
        found = await read(mq, "t")
        assert sorted(r.raw_value.decode() for r in found) == [f"{n:02}" for n in range(30)]
        if jump_s < 0:
            assert trio.current_time() > 1_800


async def test_a_topic_that_is_gone(autojump_clock):
    """The message rests among the dead letters, with where it was to go and why it did not."""
    async with running() as (_, _, mq):
        await mq.send("t", "orphan", key="k", delay=3)
        await mq.send("stays", "fine", delay=3)
        await mq.admin.delete_topic("t")
        await mq.admin.create_topic("t")
        (dead,) = await arrivals(mq, 1, topic="dlq.delayed")
        assert (dead.raw_value, dead.key) == (b"orphan", b"k")
        assert dead.header("dduomq-origin-topic") == b"t"
        assert b"deleted" in dead.header("dduomq-reason")
        await arrivals(mq, 1, topic="stays")
        await trio.sleep(5)
        assert await values(mq) == []
        assert await values(mq, "dlq.delayed") == ["orphan"]


async def test_a_full_topic_holds_nobody_else_up(autojump_clock):
    """A bounded topic that is full gets its messages when there is room; the others do not wait for it."""
    async with running() as (_, _, mq):
        await mq.admin.create_topic("full", partitions=1, config={"capacity.records": "3"})
        await mq.send("full", "waits", delay=1)
        await mq.send("full", "too", delay=2)
        await mq.send("full", "first")
        await mq.send("t", "other", delay=1.5)
        await arrivals(mq, 1, within=5)
        assert await values(mq, "full") == ["first"]
        await mq.admin.alter_topic("full", {"capacity.records": "10"})
        await arrivals(mq, 3, topic="full", within=20)
        assert await values(mq, "full") == ["first", "too", "waits"]


async def test_what_does_not_fit_any_more_rests_among_the_dead(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.send("t", "x" * 5_000, delay=2)
        await mq.admin.alter_topic("t", {"max.message.bytes": "1000"})
        (dead,) = await arrivals(mq, 1, topic="dlq.delayed")
        assert b"max.message.bytes" in dead.header("dduomq-reason")
        await mq.send("t", "small", delay=1)
        await arrivals(mq, 1)
        assert await values(mq) == ["small"]


async def test_a_wheel_that_crashes_reads_its_log_again(autojump_clock, monkeypatch):
    async with running() as (_, node, mq):
        for n in range(8):
            await mq.send("t", str(n), delay=2 + n * 0.1)
        sent = wheel_sending.WheelSending.sent

        def crash(self, message):
            monkeypatch.setattr(wheel_sending.WheelSending, "sent", sent)
            raise RuntimeError("a bug in the wheel")

        monkeypatch.setattr(wheel_sending.WheelSending, "sent", crash)
        await arrivals(mq, 8)
        await trio.sleep(5)
        assert await values(mq) == [str(n) for n in range(8)]
        assert sum(status.restarts for status in node.actors() if status.name.startswith("delay-")) == 1


async def test_a_full_disk_takes_nothing_and_loses_nothing(autojump_clock):
    async with running() as (machine, _, mq):
        await mq.send("t", "before", delay=3)
        machine.platter.faults.is_full = True
        with pytest.raises(DduomqError):
            await mq.send("t", "refused", delay=3)
        await trio.sleep(10)
        assert await values(mq) == []
        machine.platter.faults.is_full = False
        await arrivals(mq, 1, within=20)
        await mq.send("t", "after", delay=1)
        await arrivals(mq, 2, within=20)
        await trio.sleep(10)
        assert await values(mq) == ["after", "before"]


async def test_a_lost_tail_of_the_target_does_not_stop_the_wheel(autojump_clock):
    """A topic that promised only the page cache has lost its last batches, and with them the wheel's sequence."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await mq.admin.create_topic("t", partitions=1, config={"durability": "pagecache"})
            for n in range(6):
                await mq.send("t", str(n), delay=1 + n)
            await arrivals(mq, 4)
            await trio.sleep(0.5)
            machine.platter.lose_power()
            machine.network.crash()
        async with machine.node(), machine.client() as mq:
            with trio.fail_after(60):
                while not {"4", "5"} <= set(await values(mq)):  # noqa: ASYNC110  # the same
                    await trio.sleep(0.1)
            found = await values(mq)
            assert len(found) == len(set(found))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"delay": -1}, InvalidDelay),
        ({"delay": float("nan")}, InvalidDelay),
        ({"delay": float("inf")}, InvalidDelay),
        ({"delay": timedelta(days=40_000)}, InvalidDelay),
        ({"delay": 1, "deliver_at": 1}, InvalidDelay),
        ({"deliver_at": datetime(2030, 1, 1)}, InvalidDelay),  # that is the mistake
        ({"deliver_at": -5}, InvalidDelay),
        ({"headers": {"dduomq-delay": "soon"}}, InvalidDelay),
        ({"headers": {"dduomq-delay": "-5"}}, InvalidDelay),
        ({"headers": {"dduomq-delay": "5", "dduomq-deliver-at": "5"}}, InvalidDelay),
        ({"headers": {"dduomq-deliver-at": "tomorrow"}}, InvalidDelay),
        ({"headers": {"dduomq-delay": b"\xff"}}, InvalidDelay),
    ],
)
async def test_mistakes_are_told(autojump_clock, fields, error):
    async with running() as (_, _, mq):
        with pytest.raises(error):
            await mq.send("t", "x", **fields)
        assert await values(mq) == []
        assert await mq.admin.count_delayed() == 0


async def test_mistakes_of_the_operator_are_told(autojump_clock):
    async with running() as (_, _, mq):
        one = await mq.send("t", "x", delay=100)
        for wrong in ("", "7", "a-b-c", "9-1-1", "0-1-1", "-1-1-1"):
            with pytest.raises(DelayedNotFound):
                await mq.admin.cancel_delayed(wrong)
        with pytest.raises(UsageError):
            await mq.admin.reschedule(one.delay_id)
        with pytest.raises(InvalidDelay):
            await mq.admin.reschedule(one.delay_id, delay=timedelta(days=90_000))
        assert await mq.admin.count_delayed() == 1


async def test_a_refused_batch_parks_nothing(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1, config={"message.timestamp.after.max.ms": "1000"})
        with pytest.raises(DduomqError):
            await mq.send("t", "x", delay=5, timestamp_ms=EPOCH_MS + 10**9)
        await trio.sleep(1)
        assert await mq.admin.count_delayed() == 0
        with pytest.raises(MessageTooLarge):
            await mq.send("t", "x" * 1_048_450, delay=5)
        assert await mq.admin.count_delayed() == 0


async def test_a_topic_may_say_no(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1, config={"delay.headers": "off"})
        result = await mq.send("t", "now", delay=5)
        assert result.delay_id is None
        assert await values(mq) == ["now"]


async def test_times_that_have_passed_are_now(autojump_clock):
    async with running() as (_, _, mq):
        await mq.send("t", "a", deliver_at=5)
        await mq.send("t", "b", deliver_at=datetime(2001, 1, 1, tzinfo=UTC))
        await mq.send("t", "c", delay=0)
        await arrivals(mq, 3, within=2)
        assert await values(mq) == ["a", "b", "c"]


@pytest.mark.parametrize("seed", range(6))
async def test_the_log_is_cleaned(autojump_clock, monkeypatch, seed):
    """A thousand messages pass while some wait for long: the log stays short, and each comes once, through restarts."""
    monkeypatch.setattr(wheel_cleaning, "DELAY_CLEAN_BYTES", 4_000)
    monkeypatch.setattr(wheel_cleaning, "PIECE_BYTES", 1_000)
    rng = Random(seed)
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        sent = set()
        for life in range(3):
            async with machine.node() as node, machine.client() as mq:
                if not life:
                    await mq.admin.create_topic("t", partitions=2)
                for n in range(300):
                    delay = rng.choice((0.001, 0.2, 2.0, rng.uniform(0, 900)))
                    value = f"{life}-{n}"
                    result = await mq.send("t", value, delay=delay, partition=rng.randrange(2))
                    if delay > 100 and rng.random() < 0.2:
                        await mq.admin.cancel_delayed(result.delay_id)
                    else:
                        sent.add(value)
                    await trio.sleep(rng.uniform(0, 0.1))
                states = await node.admin.describe("__delay")
                assert sum(state.log.log_start_offset for state in states) > 100
                rng.choice((machine.platter.kill, machine.platter.lose_power, int))()
                machine.network.crash()
        async with machine.node(), machine.client() as mq:
            await trio.sleep(1_000)
            found = await values(mq)
            assert sorted(found) == sorted(sent)
            assert await mq.admin.count_delayed() == 0
        nursery.cancel_scope.cancel()


def parked(node, value, origin):
    """A message as a listener would park it."""
    target = Target("t", node.services.routes.table["t"].record.topic_id, 0)
    due_ms = node.services.clock.wall_ms() + 60_000
    return Parked(due_ms, NEW, -1, target, origin, None, value, [("dduomq-delay", b"60s")])


async def test_a_batch_that_comes_twice_at_once_is_parked_once(autojump_clock):
    """Its first try is on its way into the log when the second one comes."""
    async with running() as (_, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        message = parked(node, b"once", (7, 0, 0))
        _, wheel = await node.services.delays.wheel(message.target.topic_id, 0)
        answers = []

        async def park():
            answers.append(await ask(wheel, lambda reply: Park(messages=(message,), reply=reply)))

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(park)
                nursery.start_soon(park)
        assert len({answer.pairs for answer in answers}) == 1
        assert sorted(answer.is_new for answer in answers) == [False, False, False, True]
        assert await mq.admin.count_delayed() == 1


async def test_a_sequence_that_does_not_fit_takes_back_what_an_earlier_try_parked(autojump_clock):
    """Its producer sends it again under another sequence: it would come twice."""
    async with running() as (machine, node, mq):
        await mq.admin.create_topic("t", partitions=1)
        wire = KafkaWire(await machine.network.dial("sim", 6086))

        async def produce(value, sequence, headers):
            batch = encode([(machine.clock.wall_ms(), None, value, headers)])
            set_producer(batch, 7, 0, sequence)
            data = [{"name": "t", "partition_data": [{"index": 0, "records": bytes(batch)}]}]
            answer = await wire.ask("Produce", 9, acks=-1, timeout_ms=5_000, topic_data=data)
            return answer["responses"][0]["partition_responses"][0]["error_code"]

        assert await produce(b"first", 0, []) == 0
        message = parked(node, b"tried before", (7, 0, 5))
        _, wheel = await node.services.delays.wheel(message.target.topic_id, 0)
        await ask(wheel, lambda reply: Park(messages=(message,), reply=reply))
        assert await produce(b"tried before", 5, [("dduomq-delay", b"60s")]) == OutOfOrderSequence.code
        await trio.sleep(1)
        assert await mq.admin.count_delayed() == 0
        assert await produce(b"tried before", 1, [("dduomq-delay", b"60s")]) == 0
        assert await mq.admin.count_delayed() == 1


async def test_pull_looks_behind_the_holes_that_delayed_records_leave(autojump_clock):
    """What it could read at once had no record: those behind it are not "none"."""
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(3):
            await mq.send("t", f"later {n}", delay=500)
        await mq.send("t", "now" * 1_000)
        (found,) = await mq.pull("t", offset=0, max_bytes=200)
        assert (found.offset, found.raw_value) == (3, b"now" * 1_000)
        assert await mq.pull("t", offset=4, wait=0.1) == []
