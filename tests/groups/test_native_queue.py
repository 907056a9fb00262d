"""The native protocol's requests about queues, by hand: what can't be is refused, with a word for it."""

import pytest
import trio

from dduomq.actors.coordinator_queue_messages import ReleaseHeld
from dduomq.errors import (
    CoordinatorLoading,
    FencedMemberEpoch,
    GroupNotEmpty,
    GroupNotFound,
    InvalidRequest,
    RecordNotHeld,
    UnknownMember,
    UnknownTopicOrPartition,
    from_code,
)
from dduomq.limits import QUEUE_LOCKS_MAX
from dduomq.wire import native
from dduomq.wire.native_queue import (
    ACCEPT,
    RELEASE,
    RENEW,
    MoveQueue,
    QueueHeartbeat,
    QueueHeartbeatAnswer,
    RecordEnding,
    RecordsSettled,
    RecordsTaken,
    SettlePart,
    SettleRecords,
    TakePart,
    TakeRecords,
)
from tests.groups.test_coordinator_share import running, topic


class Hand:
    """A member that says what it is told to."""

    def __init__(self, mq, member_id="m"):
        self.mq = mq
        self.member_id = member_id

    async def ask(self, body, answer=native.Done):
        for _ in range(100):
            try:
                plain, _ = await self.mq._wire.ask(body, 10_000)
            except CoordinatorLoading:
                await trio.sleep(0.1)
            else:
                return native.from_plain(answer, plain)
        raise AssertionError("the coordinator does not come")

    async def join(self, **said):
        body = QueueHeartbeat("g", self.member_id, 0, topics=("t",), **said)
        answer = await self.ask(body, QueueHeartbeatAnswer)
        self.topic_id = answer.assignment[0].topic_id
        return self

    async def take(self, most=100, group="g", partition=0, topic_id=None, **said):
        part = TakePart(topic_id or self.topic_id, "t", partition)
        body = TakeRecords(group, self.member_id, (part,), most, 1 << 20, 0, start="earliest", **said)
        return await self.ask(body, RecordsTaken)

    async def settle(self, *endings, partition=0):
        body = SettleRecords("g", self.member_id, (SettlePart(self.topic_id, partition, endings),))
        [part] = (await self.ask(body, RecordsSettled)).parts
        return part.code


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        (RecordEnding(0, 2**63 - 1, ACCEPT), RecordNotHeld),
        (RecordEnding(0, 2**63, ACCEPT), InvalidRequest),
        (RecordEnding(-(2**63), 0, ACCEPT), InvalidRequest),
        (RecordEnding(5, 4, ACCEPT), InvalidRequest),
        (RecordEnding(0, 0, 6), InvalidRequest),
        (RecordEnding(0, 0, -1), InvalidRequest),
        (RecordEnding(0, 0, RELEASE, -1), InvalidRequest),
        (RecordEnding(0, 0, RELEASE, 2**62), InvalidRequest),
        (RecordEnding(0, 0, RENEW, 2**40), InvalidRequest),
        (RecordEnding(0, 0, RELEASE, 0, "x" * 1_001), InvalidRequest),
        (RecordEnding(10, 10, ACCEPT), RecordNotHeld),
    ],
)
async def test_what_can_not_be_said_of_records(autojump_clock, ending, error):
    """Nothing changes: what the member has it has."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one = await Hand(mq).join()
        assert (await one.take()).parts[0].spans == ((0, 9, 1),)
        assert await one.settle(ending) == error.code
        assert await one.settle(RecordEnding(0, 9, ACCEPT)) == 0
        assert await one.settle(RecordEnding(0, 9, ACCEPT)) == RecordNotHeld.code
        assert await one.settle(RecordEnding(0, 0, ACCEPT), partition=7) == RecordNotHeld.code


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        ({"most": 0}, InvalidRequest), ({"most": -1}, InvalidRequest), ({"most": QUEUE_LOCKS_MAX + 1}, InvalidRequest),
        ({"lock_ms": 1}, InvalidRequest), ({"lock_ms": 2**40}, InvalidRequest), ({"group": "other"}, UnknownMember),
    ],
)  # fmt: skip
async def test_what_can_not_be_taken(autojump_clock, wish, error):
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one = await Hand(mq).join()
        with pytest.raises(error):
            await one.take(**wish)
        assert (await one.take()).parts[0].spans == ((0, 9, 1),)


async def test_a_start_that_makes_no_sense(autojump_clock):
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one = await Hand(mq).join()
        part = TakePart(one.topic_id, "t", 0)
        with pytest.raises(InvalidRequest, match="start"):
            await one.ask(TakeRecords("g", "m", (part,), 1, 1_000, 0, start="yesterday"), RecordsTaken)


async def test_a_partition_that_there_is_not(autojump_clock):
    """Nor the topic that it was."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one = await Hand(mq).join()
        for wish in ({"partition": 5}, {"topic_id": "f" * 32}):
            [part] = (await one.take(**wish)).parts
            assert isinstance(from_code(part.code), UnknownTopicOrPartition)
            assert part.size == 0


async def test_members_that_there_are_not(autojump_clock):
    """Who has not joined, has another epoch, or has left, is told so, and keeps nothing."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one, stranger = await Hand(mq).join(), Hand(mq, "stranger")
        stranger.topic_id = one.topic_id
        with pytest.raises(UnknownMember):
            await stranger.take()
        with pytest.raises(UnknownMember):
            await stranger.ask(QueueHeartbeat("g", "stranger", 3), QueueHeartbeatAnswer)
        with pytest.raises(FencedMemberEpoch):
            await one.ask(QueueHeartbeat("g", "m", 9), QueueHeartbeatAnswer)
        await one.take()
        await one.ask(QueueHeartbeat("g", "m", -1), QueueHeartbeatAnswer)
        assert await one.settle(RecordEnding(0, 9, ACCEPT)) == RecordNotHeld.code
        with pytest.raises(GroupNotFound):
            await one.ask(MoveQueue("nobody", "t", ((0, 0),)))


async def test_queues_are_moved_without_members_only(autojump_clock):
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one = await Hand(mq).join()
        await one.take()
        with pytest.raises(GroupNotEmpty):
            await one.ask(MoveQueue("g", "t", ((0, 5),)))
        await one.ask(QueueHeartbeat("g", "m", -1), QueueHeartbeatAnswer)
        with pytest.raises(InvalidRequest):
            await one.ask(MoveQueue("g", "t", ((0, -2),)))
        with pytest.raises(UnknownTopicOrPartition):
            await one.ask(MoveQueue("g", "t", ((9, 5),)))
        await one.ask(MoveQueue("g", "t", ((0, 5),)))
        await one.join()
        assert (await one.take()).parts[0].spans == ((5, 9, 1),)


async def test_what_a_member_does_not_know_goes_back(autojump_clock):
    """It says what it has; the rest was never delivered."""
    async with running() as machine, machine.node(), machine.client() as mq:
        from dduomq.wire.native_queue import HeldPart

        await topic(mq)
        one = await Hand(mq).join()
        two = await Hand(mq, "two").join()
        await one.take()
        held = (HeldPart(one.topic_id, 0, ((2, 3), (7, 7))),)
        await one.ask(QueueHeartbeat("g", "m", 1, held=held), QueueHeartbeatAnswer)
        assert (await two.take()).parts[0].spans == ((0, 1, 1), (4, 6, 1), (8, 9, 1))
        assert await one.settle(RecordEnding(2, 3, ACCEPT), RecordEnding(7, 7, ACCEPT)) == 0


async def test_what_is_released_by_one_way_is_kept_by_the_other(autojump_clock):
    """A member has a way to each node whose partitions it reads: the end of one says nothing of the others."""
    async with running() as machine, machine.node() as node, machine.client() as mq:
        await topic(mq, partitions=2)
        one, two = await Hand(mq).join(), await Hand(mq, "n").join()
        for partition in (0, 1):
            assert (await one.take(partition=partition)).parts[0].spans == ((0, 9, 1),)
        mailbox = await node.services.groups.anywhere("g")
        await mailbox.put(ReleaseHeld(group="g", member_id="m", places=((one.topic_id, 0), (one.topic_id, 7))))
        assert (await two.take(partition=0)).parts[0].spans == ((0, 9, 2),)
        assert (await two.take(partition=1)).parts == ()
        assert await one.settle(RecordEnding(0, 9, ACCEPT), partition=1) == 0
