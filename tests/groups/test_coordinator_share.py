"""Whole nodes with share groups, in Kafka's words, on a virtual clock: who gets which records, through any crash."""

from contextlib import asynccontextmanager

import pytest
import trio

from dduomq.actors import coordinator_log
from dduomq.limits import QUEUE_LOCKS_MAX
from dduomq.testing.disk import Faults
from tests.groups.share_wire import ShareMember
from tests.sim.machine import Machine

ACCEPT, RELEASE, REJECT, RENEW, GAP = 1, 2, 3, 4, 0
LOCK_S = 30
INVALID_REQUEST, UNKNOWN_MEMBER, INCONSISTENT, NOT_EMPTY, NOT_FOUND, UNKNOWN_ID = 42, 25, 23, 68, 69, 100
NOT_HELD, NO_SESSION, BAD_EPOCH, TOO_MANY_SESSIONS, NOT_AVAILABLE = 121, 122, 123, 133, 15


@asynccontextmanager
async def running():
    """A machine on which nodes may live, one after another."""
    async with trio.open_nursery() as nursery:
        yield Machine(nursery)
        nursery.cancel_scope.cancel()


async def topic(mq, count=10, partitions=1, batches=1, name="t"):
    await mq.admin.create_topic(name, partitions=partitions)
    for partition in range(partitions):
        for _ in range(batches):
            if count:
                await mq.send_batch(name, [b"x"] * count, partition=partition)


async def member(machine, member_id, group="g"):
    """One that has its partitions and a session, and of which the queue begins at the log's end."""
    made = await (await ShareMember(machine, member_id, group).connect()).join()
    assert (await made.fetch())["error_code"] == 0
    return made


async def from_the_beginning(machine, *member_ids):
    """Members of a group that begins at offset 0."""
    members = [await member(machine, member_id) for member_id in member_ids]
    for made in members:
        assert await made.beat(epoch=-1) == 0
    parts = [{"partition_index": at, "start_offset": 0} for _, at in members[0].assigned]
    answer = await members[0].ask("AlterShareGroupOffsets", topics=[{"topic_name": "t", "partitions": parts}])
    assert answer["error_code"] == 0, answer
    for made in members:
        await made.join()
    return members


def offsets(taken):
    return [offset for offset, _ in taken]


# --- records ----------------------------------------------------------------------------------------


async def test_a_record_is_given_to_one_member(autojump_clock):
    """New records by default; each to one of them, and no more than were asked for, unless a batch would be cut."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one, two = await member(machine, "one"), await member(machine, "two")
        assert await one.take() == []
        for _ in range(4):
            await mq.send_batch("t", [b"x"] * 5)
        assert offsets(await one.take(records=7)) == list(range(10, 20))
        assert offsets(await two.take(records=7, share_acquire_mode=1)) == list(range(20, 27))
        assert offsets(await one.take()) == [27, 28, 29]
        assert await two.take() == []


async def test_words_of_records(autojump_clock):
    """Accepted ones are done, released ones come again with a count, rejected ones don't; renewed ones stay."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one, two = await from_the_beginning(machine, "one", "two")
        assert await one.take() == [(at, 1) for at in range(10)]
        words = [ACCEPT, RELEASE, REJECT, GAP, RELEASE, ACCEPT]
        assert await one.acknowledge((0, 5, words), (6, 6, ACCEPT)) == (0, 0)
        assert await two.take() == [(1, 2), (4, 2)]
        answer = await one.fetch([(7, 7, RENEW)], is_renew_ack=True, records=0)
        assert answer["responses"][0]["partitions"][0]["acknowledge_error_code"] == 0
        assert await two.take([(1, 1, ACCEPT), (4, 4, RELEASE)]) == [(4, 3)]
        assert await one.take([(8, 9, RELEASE)]) == [(8, 2), (9, 2)]


@pytest.mark.parametrize(
    ("ack", "code"),
    [
        ((1, 10, ACCEPT), NOT_HELD),
        ((5, 5, ACCEPT), NOT_HELD),  # it is the other one's
        ((100, 200, ACCEPT), NOT_HELD),
        ((1, 2**63 - 1, ACCEPT), NOT_HELD),
        ((0, 1, ACCEPT), INVALID_REQUEST),  # the first one twice
        ((3, 2, ACCEPT), INVALID_REQUEST),
        ((-5, 2, ACCEPT), INVALID_REQUEST),
        ((-(2**63), 2**63 - 1, ACCEPT), INVALID_REQUEST),
    ],
)
async def test_what_may_not_be_acknowledged(autojump_clock, ack, code):
    """Nothing of what was said of the partition counts then."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one, two = await from_the_beginning(machine, "one", "two")
        assert offsets(await one.take(records=5, share_acquire_mode=1)) == list(range(5))
        assert offsets(await two.take()) == list(range(5, 10))
        assert await one.acknowledge((0, 0, ACCEPT), ack) == (0, code)
        assert await one.acknowledge((0, 4, ACCEPT)) == (0, 0)
        assert await one.acknowledge((0, 0, ACCEPT)) == (0, NOT_HELD)
        [part] = (await one.fetch([(1, 1, ACCEPT)]))["responses"][0]["partitions"]
        assert (part["error_code"], part["acknowledge_error_code"]) == (0, NOT_HELD)


@pytest.mark.parametrize(
    "ack",
    [(0, 1, [ACCEPT] * 3), (0, 1, []), (0, 0, 5), (0, 0, -1), (0, 0, RENEW), (0, 3, [ACCEPT, ACCEPT, 9, ACCEPT])],
)
async def test_words_that_there_are_not(autojump_clock, ack):
    """Neither with a fetch nor alone; renewals are to be announced."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        [one] = await from_the_beginning(machine, "one")
        await one.take()
        assert (await one.acknowledge(ack))[0] == INVALID_REQUEST
        assert (await one.fetch([ack]))["error_code"] == INVALID_REQUEST
        assert (await one.fetch([ack], version=1))["error_code"] == INVALID_REQUEST
        assert await one.acknowledge((0, 9, ACCEPT)) == (0, 0)


async def test_a_lock_expires(autojump_clock):
    """Then another member gets the record; nobody else does meanwhile."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one, two = await from_the_beginning(machine, "one", "two")
        await one.take()
        answer = await one.fetch()
        assert answer["acquisition_lock_timeout_ms"] == LOCK_S * 1_000
        begun = trio.current_time()
        while not (found := await two.take(wait_ms=60_000)):
            await one.beat()
            await two.beat()
        assert trio.current_time() - begun == pytest.approx(LOCK_S, abs=0.2)
        assert found == [(at, 2) for at in range(10)]
        assert await one.acknowledge((0, 9, ACCEPT)) == (0, NOT_HELD)


async def test_who_waits_is_woken(autojump_clock):
    """By new records, and by those that another member gives back; else it waits as long as it said."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one, two = await from_the_beginning(machine, "one", "two")
        await one.take()
        begun = trio.current_time()
        assert await two.take(wait_ms=700) == []
        assert trio.current_time() - begun == pytest.approx(0.7, abs=0.1)
        found = []

        async def wait():
            found.append((offsets(await two.take(wait_ms=30_000)), round(trio.current_time() - begun, 1)))

        for act in (lambda: one.acknowledge((3, 4, RELEASE)), lambda: mq.send_batch("t", [b"x"] * 2)):
            begun = trio.current_time()
            async with trio.open_nursery() as waiting:
                waiting.start_soon(wait)
                await trio.sleep(5)
                await act()
        assert found == [([3, 4], 5.0), ([10, 11], 5.0)]


async def test_only_so_many_are_in_hand(autojump_clock):
    """Then fresh records wait, until one is done; who waits for that is woken."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq, count=QUEUE_LOCKS_MAX // 2, batches=3)
        one, two = await from_the_beginning(machine, "one", "two")
        taken = await one.take(records=20_000) + await one.take(records=20_000)
        assert len(taken) == QUEUE_LOCKS_MAX
        assert await two.take() == []
        found = []

        async def wait():
            found.extend(offsets(await two.take(wait_ms=10_000)))

        async with trio.open_nursery() as waiting:
            waiting.start_soon(wait)
            await trio.sleep(1)
            assert await one.acknowledge((7, 8, ACCEPT)) == (0, 0)
        assert found == [QUEUE_LOCKS_MAX, QUEUE_LOCKS_MAX + 1]


async def test_members_share_many_partitions(autojump_clock):
    """Each has them all, and none stands back for long."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq, partitions=3)
        one, two = await from_the_beginning(machine, "one", "two")
        assert sorted(at for _, at in one.assigned) == sorted(at for _, at in two.assigned) == [0, 1, 2]
        seen = set()
        for _ in range(3):
            answer = await one.fetch(records=1)
            seen |= {part["partition_index"] for found in answer["responses"] for part in found["partitions"]}
        assert seen == {0, 1, 2}


async def test_a_topic_that_is_made_again_begins_anew(autojump_clock):
    """Its queue is another one; what was locked of the old one is no more."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        [one] = await from_the_beginning(machine, "one")
        await one.take()
        old = one.topic_id
        await mq.admin.delete_topic("t")
        answer = await one.fetch(wait_ms=100)
        assert [part["error_code"] for part in answer["responses"][0]["partitions"]] == [UNKNOWN_ID]
        await topic(mq)
        await one.beat()
        assert one.topic_id != old
        one.session = 0
        assert await one.take() == []
        await mq.send_batch("t", [b"y"])
        assert await one.take() == [(10, 1)]


async def test_a_log_that_begins_later(autojump_clock):
    """Records that were deleted are nobody's; the others go on."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq, batches=3)
        [one] = await from_the_beginning(machine, "one")
        assert len(await one.take(records=10)) == 10
        await mq.admin.purge("t", 0, 25)
        found = await one.take(wait_ms=1_000) or await one.take(wait_ms=1_000)
        assert offsets(found) == list(range(25, 30))
        assert await one.acknowledge((0, 9, ACCEPT)) == (0, NOT_HELD)
        assert await one.acknowledge((25, 29, ACCEPT)) == (0, 0)


# --- sessions ---------------------------------------------------------------------------------------


async def test_epochs_of_sessions(autojump_clock):
    """A request counts once; none is taken without a session, or out of turn."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        [one] = await from_the_beginning(machine, "one")
        assert (await one.fetch(session=7))["error_code"] == BAD_EPOCH
        assert (await one.fetch([(0, 0, ACCEPT)], session=0))["error_code"] == INVALID_REQUEST
        assert await one.acknowledge((0, 0, ACCEPT), session=0) == (BAD_EPOCH, None)
        assert await one.acknowledge((0, 0, ACCEPT), session=9) == (BAD_EPOCH, None)
        stranger = ShareMember(machine, "stranger")
        stranger.assigned, stranger.topic_id = one.assigned, one.topic_id
        await stranger.connect()
        assert (await stranger.fetch(session=1))["error_code"] == NO_SESSION
        assert (await stranger.fetch(session=-1))["error_code"] == NO_SESSION
        assert await stranger.acknowledge((0, 0, ACCEPT), session=1) == (NO_SESSION, None)
        for at in range(20):
            stranger.member_id = f"stranger-{at}"
            code = (await stranger.fetch(session=0))["error_code"]
            assert code == (0 if at < 16 else TOO_MANY_SESSIONS)


@pytest.mark.parametrize("way", ["closed by a fetch", "closed by an acknowledgement", "begun anew", "connection lost"])
async def test_the_end_of_a_session_frees_its_records(autojump_clock, way):
    """At once, whoever ends it and how."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one, two = await from_the_beginning(machine, "one", "two")
        await one.take()
        if way == "closed by a fetch":
            assert (await one.fetch([(0, 1, ACCEPT)], session=-1))["error_code"] == 0
        elif way == "closed by an acknowledgement":
            assert await one.acknowledge((0, 1, ACCEPT), session=-1) == (0, 0)
        elif way == "begun anew":
            await one.acknowledge((0, 1, ACCEPT))
            assert (await one.fetch(session=0, records=0))["error_code"] == 0
        else:
            await one.acknowledge((0, 1, ACCEPT))
            await one.aclose()
        assert await two.take(wait_ms=1_000) == [(at, 2) for at in range(2, 10)]


async def test_partitions_of_a_session_may_be_forgotten(autojump_clock):
    """And are read no more; words about their records still count."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        [one] = await from_the_beginning(machine, "one")
        await one.take(records=5, share_acquire_mode=1)
        answer = await one.fetch([(0, 4, ACCEPT)], forget=[0])
        [part] = answer["responses"][0]["partitions"]
        assert (part["acknowledge_error_code"], part["acquired_records"]) == (0, [])
        assert await one.take() == []


# --- members ----------------------------------------------------------------------------------------


async def test_a_group_has_members_of_one_kind(autojump_clock):
    """Others are refused while there are some, and may come when the group is empty; the records go on."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        [one] = await from_the_beginning(machine, "one")
        await one.take([], records=5, share_acquire_mode=1)
        joining = {
            "ConsumerGroupHeartbeat": {
                "group_id": "g", "member_id": "c", "member_epoch": 0, "rebalance_timeout_ms": 1_000,
                "subscribed_topic_names": ["t"], "topic_partitions": [],
            },
            "JoinGroup": {
                "group_id": "g", "member_id": "", "session_timeout_ms": 10_000, "rebalance_timeout_ms": 10_000,
                "protocol_type": "consumer", "protocols": [{"name": "range", "metadata": b""}],
            },
        }  # fmt: skip
        codes = {api: (await one.wire.ask(api, **body))["error_code"] for api, body in joining.items()}
        assert codes == {"ConsumerGroupHeartbeat": NOT_FOUND, "JoinGroup": INCONSISTENT}
        commit = {"name": "t", "partitions": [{"partition_index": 0, "committed_offset": 3}]}
        answer = await one.wire.ask("OffsetCommit", 8, group_id="g", generation_id_or_member_epoch=-1, topics=[commit])
        assert answer["topics"][0]["partitions"][0]["error_code"] == NOT_FOUND
        await one.acknowledge((0, 4, ACCEPT))
        await one.beat(epoch=-1)
        consumer = joining["ConsumerGroupHeartbeat"]
        assert (await one.wire.ask("ConsumerGroupHeartbeat", **consumer))["error_code"] == 0
        assert await one.beat("t", epoch=0) == NOT_FOUND
        assert (await one.wire.ask("ConsumerGroupHeartbeat", **{**consumer, "member_epoch": -1}))["error_code"] == 0
        await one.join()
        assert offsets(await one.take()) == list(range(5, 10))


async def test_a_member_that_is_silent_is_out(autojump_clock):
    """After its session; what it had goes to others, and it is told to join again."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one, two = await from_the_beginning(machine, "one", "two")
        await one.take()
        assert await one.acknowledge((0, 9, ACCEPT)) == (0, 0)
        await mq.send_batch("t", [b"x"] * 3)
        for _ in range(16):
            await trio.sleep(3)
            await one.take([(10, 12, RENEW)] if _ else [], is_renew_ack=bool(_), **({"records": 0} if _ else {}))
            await two.beat()
        assert await two.take(wait_ms=2_000) == [(at, 2) for at in range(10, 13)]
        assert await one.beat() == UNKNOWN_MEMBER
        assert await one.take() == []
        await one.join()


async def test_groups_are_shown(autojump_clock):
    """With their kind, their members, and how far they are."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq, partitions=2)
        [one] = await from_the_beginning(machine, "one")
        await one.take()
        assert await one.acknowledge((0, 1, ACCEPT)) == (0, 0)
        ask = one.wire.ask
        listed = await ask("ListGroups", types_filter=["share"], states_filter=[])
        assert [(g["group_id"], g["group_type"], g["group_state"]) for g in listed["groups"]] == [
            ("g", "share", "Stable")
        ]
        [shown] = (await ask("ShareGroupDescribe", group_ids=["g"]))["groups"]
        [held] = shown["members"]
        assert (shown["group_state"], held["member_id"], held["subscribed_topic_names"]) == ("Stable", "one", ["t"])
        assert held["assignment"]["topic_partitions"][0]["partitions"] == [0, 1]
        assert (await ask("ShareGroupDescribe", group_ids=["h"]))["groups"][0]["error_code"] == NOT_FOUND
        assert (await ask("ConsumerGroupDescribe", group_ids=["g"]))["groups"][0]["error_code"] == NOT_FOUND
        assert (await ask("DescribeGroups", groups=["g"]))["groups"][0]["group_state"] == "Dead"
        assert (await ask("DeleteGroups", groups_names=["g"]))["results"][0]["error_code"] == NOT_EMPTY
        assert await where(one) == {0: (2, 8), 1: (0, 10)}


async def where(one, group="g"):
    """Partition to (start, lag)."""
    [shown] = (await one.wire.ask("DescribeShareGroupOffsets", groups=[{"group_id": group, "topics": None}]))["groups"]
    assert shown["error_code"] == 0
    return {
        part["partition_index"]: (part["start_offset"], part["lag"])
        for found in shown["topics"] for part in found["partitions"]
    }  # fmt: skip


async def test_offsets_are_moved(autojump_clock):
    """Of groups without members; forgotten ones begin where groups begin."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        [one] = await from_the_beginning(machine, "one")
        await one.take()
        moved = {"topic_name": "t", "partitions": [{"partition_index": 0, "start_offset": 4}]}
        assert (await one.ask("AlterShareGroupOffsets", topics=[moved]))["error_code"] == NOT_EMPTY
        assert (await one.ask("DeleteShareGroupOffsets", topics=[{"topic_name": "t"}]))["error_code"] == NOT_EMPTY
        await one.beat(epoch=-1)
        assert (await one.ask("AlterShareGroupOffsets", topics=[moved]))["error_code"] == 0
        assert await where(one) == {0: (4, 6)}
        wrong = [
            {"topic_name": "t", "partitions": [
                {"partition_index": 0, "start_offset": -1}, {"partition_index": 9, "start_offset": 0}]},
            {"topic_name": "no", "partitions": [{"partition_index": 0, "start_offset": 0}]},
        ]  # fmt: skip
        answer = await one.ask("AlterShareGroupOffsets", topics=wrong)
        codes = [part["error_code"] for found in answer["responses"] for part in found["partitions"]]
        assert codes == [INVALID_REQUEST, 3, 3]
        await one.join()
        assert offsets(await one.take()) == list(range(4, 10))
        await one.beat(epoch=-1)
        answer = await one.ask("DeleteShareGroupOffsets", topics=[{"topic_name": "t"}, {"topic_name": "no"}])
        assert [found["error_code"] for found in answer["responses"]] == [0, 3]
        assert await where(one) == {}
        [gone] = (await one.ask("DescribeShareGroupOffsets", groups=[{"group_id": "no", "topics": None}]))["groups"]
        assert gone["error_code"] == NOT_FOUND
        one.group = "no"
        assert (await one.ask("AlterShareGroupOffsets", topics=[moved]))["error_code"] == NOT_FOUND


# --- crashes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["kill", "power"])
@pytest.mark.parametrize("is_rewritten", [False, True])
async def test_what_was_answered_outlives_the_node(autojump_clock, monkeypatch, way, is_rewritten):
    """Who has a record has it still, with its count; what is done is done; what was put back comes first."""
    if is_rewritten:
        monkeypatch.setattr(coordinator_log, "GROUPS_REWRITE_BYTES", 100)
    async with running() as machine:
        async with machine.node():
            async with machine.client() as mq:
                await topic(mq, count=20)
                one, two = await from_the_beginning(machine, "one", "two")
                await one.take(records=10, share_acquire_mode=1)
                await two.take(records=5, share_acquire_mode=1)
                await one.acknowledge((0, 3, ACCEPT), (4, 5, RELEASE), (6, 6, REJECT))
                before = await where(one)
            if way == "power":
                machine.platter.lose_power()
            else:
                machine.platter.kill()
            machine.network.crash()
        async with machine.node():
            for each in (one, two):
                await each.connect()
                assert await each.beat() == UNKNOWN_MEMBER
                await each.join()
            assert await where(one) == before
            assert (await one.fetch(records=0))["error_code"] == 0
            assert await one.acknowledge((7, 9, ACCEPT)) == (0, 0)
            assert await two.take() == [(4, 2), (5, 2), *((at, 1) for at in range(15, 20))]
            assert await two.acknowledge((10, 14, ACCEPT)) == (0, 0)


async def test_a_lock_begins_anew_with_the_coordinator(autojump_clock):
    """Whoever has a record gets its whole time again; if it never comes, the record goes to others then."""
    async with running() as machine:
        async with machine.node():
            async with machine.client() as mq:
                await topic(mq)
                one, two = await from_the_beginning(machine, "one", "two")
                await one.take()
                await trio.sleep(20)
            machine.platter.kill()
            machine.network.crash()
        begun = trio.current_time()
        async with machine.node():
            await two.connect()
            await two.join()
            while not (found := await two.take(wait_ms=5_000)):
                await two.beat()
            assert trio.current_time() - begun == pytest.approx(LOCK_S, abs=1)
            assert found == [(at, 2) for at in range(10)]


async def test_a_full_disk(autojump_clock):
    """Nothing is given out, nothing is done, nothing is lost; when there is room again, all goes on."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq, count=10)
        one, two = await from_the_beginning(machine, "one", "two")
        await one.take(records=5, share_acquire_mode=1)
        machine.platter.faults = Faults(is_full=True)
        assert await two.take(wait_ms=2_000) == []
        code, part = await one.acknowledge((0, 4, ACCEPT))
        assert (code, part) == (0, NOT_AVAILABLE)
        machine.platter.faults = Faults()
        await trio.sleep(2)
        assert await one.acknowledge((0, 4, ACCEPT)) == (0, 0)
        for each in (one, two):
            assert await each.beat() == UNKNOWN_MEMBER
            await each.join()
        assert await two.take(wait_ms=1_000) == [(at, 1) for at in range(5, 10)]
        assert await where(one) == {0: (5, 5)}


async def test_a_coordinator_that_crashes(autojump_clock, monkeypatch):
    """The records are as they were stored; members join again and go on."""
    async with running() as machine, machine.node() as node, machine.client() as mq:
        await topic(mq)
        one, two = await from_the_beginning(machine, "one", "two")
        await one.take(records=5, share_acquire_mode=1)

        def fail(*_arguments, **_more):
            monkeypatch.undo()
            raise RuntimeError("planted")

        monkeypatch.setattr("dduomq.groups.queue.Queue.settle", fail)
        await one.acknowledge((0, 4, ACCEPT))
        await trio.sleep(2)
        assert sum(status.restarts for status in node.actors() if status.name.startswith("groups-")) == 1
        assert await one.acknowledge((0, 4, ACCEPT)) == (0, 0)
        await two.join()
        assert await two.take() == [(at, 1) for at in range(5, 10)]


async def test_a_log_that_loses_records_that_were_given_out(autojump_clock):
    """Where a topic may lose records with the power, other records have their offsets then: they are given out."""
    async with running() as machine:
        async with machine.node():
            async with machine.client() as mq:
                await mq.admin.create_topic("t", partitions=1, config={"durability": "pagecache"})
                await mq.send_batch("t", [b"x"] * 10)
                one, _ = await from_the_beginning(machine, "one", "two")
                assert len(await one.take()) == 10
                await one.acknowledge((0, 3, ACCEPT))
            machine.platter.lose_power()
            machine.network.crash()
        async with machine.node(), machine.client() as mq:
            await one.connect()
            await one.join()
            assert await one.take(wait_ms=1_000) == []
            end = (await mq.send_batch("t", [b"y"] * 3)).offset
            assert end < 10
            assert offsets(await one.take(wait_ms=1_000)) == list(range(end, end + 3))
