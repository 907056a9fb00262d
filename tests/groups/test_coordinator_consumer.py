"""Whole nodes with groups that the broker shares out for, on a virtual clock: whatever crashes, nobody reads what
another one holds, and what was answered stays."""

import pytest
import trio

from dduomq.actors import coordinator_log
from dduomq.errors import (
    CoordinatorLoading,
    CoordinatorNotAvailable,
    DduomqError,
    FencedMemberEpoch,
    GroupNotEmpty,
    GroupNotFound,
    NetworkError,
    NodeStopping,
    NotOwner,
    OffsetMovedBack,
    OffsetOutOfRange,
    OutcomeUnknown,
    StaleMemberEpoch,
    UnknownMember,
    UnknownTopicOrPartition,
    from_code,
)
from dduomq.testing.disk import Faults
from dduomq.wire import native
from dduomq.wire import native_groups as wire
from tests.sim.machine import Machine

AGAIN = (CoordinatorLoading, CoordinatorNotAvailable, NetworkError, NodeStopping, OutcomeUnknown)
PARTITIONS = 4


class Member:
    """A native member that does as it is told, at once."""

    def __init__(self, mq, member_id, **said):
        self.mq = mq
        self.member_id = member_id
        self.said = {"topics": ("t",), **said}
        self.epoch = 0
        self.assigned = frozenset()

    async def ask(self, body, timeout_ms=10_000):
        plain, _ = await self.mq._wire.ask(body, timeout_ms)
        return native.from_plain(native.REQUESTS[native.API_OF[type(body)]][1], plain)

    async def beat(self, wait_ms=0, **said):
        """Until the coordinator answers; where it was in doubt it says everything again."""
        for _ in range(100):
            if self.epoch == 0:
                said = {**self.said, "owned": ()}
            try:
                answer = await self.ask(wire.GroupHeartbeat("g", self.member_id, self.epoch, wait_ms, **said))
            except AGAIN:
                said = {**said, "owned": self.owned()}
                await trio.sleep(0.2)
                continue
            self.epoch = answer.member_epoch
            if answer.assignment is not None:
                self.assigned = frozenset(at for part in answer.assignment for at in part.partitions)
                self.topic_ids = {part.topic_id for part in answer.assignment}
            return answer
        raise AssertionError("the coordinator does not come back")

    def owned(self):
        return tuple(wire.OwnedPart(topic_id, tuple(self.assigned)) for topic_id in getattr(self, "topic_ids", ()))

    async def settle(self):
        """Let go of what is to be let go, take what is free."""
        for _ in range(3):
            await self.beat()
            await self.beat(owned=self.owned())

    async def commit(self, partition, offset, **fields):
        answer = await self.ask(
            wire.CommitOffsets("g", self.member_id, self.epoch, (wire.CommitPart("t", partition, offset),), **fields)
        )
        if answer.parts[0].code:
            raise from_code(answer.parts[0].code, answer.parts[0].message)

    async def committed(self):
        answer = await self.ask(wire.FetchCommitted("g"))
        return {found.partition: found.offset for found in answer.offsets}


async def prepare(mq):
    await mq.admin.create_topic("t", partitions=PARTITIONS)
    for partition in range(PARTITIONS):
        await mq.send_batch("t", [b"x"] * 10, partition=partition)


@pytest.fixture
def everything():
    return frozenset(range(PARTITIONS))


async def test_a_parked_heartbeat_tells_of_changes_at_once(autojump_clock, everything):
    """A member that comes, and one that goes, are known to the other without waiting."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await prepare(mq)
            one, two = Member(mq, "one"), Member(mq, "two")
            await one.beat()
            begun = trio.current_time()
            assert (await one.beat(wait_ms=60_000)).assignment is None
            assert trio.current_time() - begun == pytest.approx(3, abs=0.5)  # no longer than a heartbeat may take

            async with trio.open_nursery() as waiting:
                waiting.start_soon(one.beat, 60_000)
                await trio.sleep(1)
                begun = trio.current_time()
                await two.beat()
            assert trio.current_time() - begun < 0.5
            assert len(one.assigned) == PARTITIONS // 2
            await one.settle()
            await two.settle()
            assert one.assigned | two.assigned == everything

            async with trio.open_nursery() as waiting:
                waiting.start_soon(one.beat, 60_000)
                await trio.sleep(1)
                begun = trio.current_time()
                await two.ask(wire.GroupHeartbeat("g", "two", wire.LEAVE))
            assert trio.current_time() - begun < 0.5
            assert one.assigned == everything
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("end", ["stop", "kill", "power loss"])
async def test_groups_go_on_after_a_restart(autojump_clock, end, everything):
    """Members need not join again, and what they committed is there."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node():
            async with machine.client() as mq:
                await prepare(mq)
                one, two = Member(mq, "one"), Member(mq, "two")
                await one.beat()
                await two.beat()
                await one.settle()
                await two.settle()
                at = min(one.assigned)
                await one.commit(at, 7)
            if end == "kill":
                machine.platter.kill()
            elif end == "power loss":
                machine.platter.lose_power()
            machine.network.crash()
        epoch, held = one.epoch, one.assigned
        async with machine.node(), machine.client() as mq:
            one.mq = two.mq = mq
            await one.beat()
            await two.beat()
            assert (one.epoch, one.assigned) == (epoch, held)
            assert one.assigned | two.assigned == everything
            assert await one.committed() == {at: 7}
            await one.commit(at, 8)
        nursery.cancel_scope.cancel()


async def test_commits_that_are_refused(autojump_clock):
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await prepare(mq)
            one, two, stranger = Member(mq, "one"), Member(mq, "two"), Member(mq, "stranger")
            await one.beat()
            await two.beat()
            await one.settle()
            await two.settle()
            mine, other = min(one.assigned), min(two.assigned)
            await one.commit(mine, 5)
            for offset, error in ((4, OffsetMovedBack), (11, OffsetOutOfRange), (-1, DduomqError)):
                with pytest.raises(error):
                    await one.commit(mine, offset)
            with pytest.raises(NotOwner):
                await one.commit(other, 5)
            with pytest.raises(UnknownTopicOrPartition):
                await one.commit(99, 5)
            with pytest.raises(UnknownMember):
                await stranger.commit(mine, 5)
            one.epoch -= 1
            with pytest.raises(StaleMemberEpoch):
                await one.commit(mine, 6)
            one.epoch += 1
            assert await one.committed() == {mine: 5}
            await one.commit(mine, 3, rewind=True)
            assert await one.committed() == {mine: 3}
            with pytest.raises(GroupNotEmpty):
                await one.ask(wire.DeleteGroup("g"))
            for member in (one, two):
                await member.ask(wire.GroupHeartbeat("g", member.member_id, wire.LEAVE))
            await mq.admin.purge("t", mine, 2)
            by_hand = Member(mq, "")
            by_hand.epoch = -1
            with pytest.raises(OffsetOutOfRange):
                await by_hand.commit(mine, 1, rewind=True)  # it is gone
            await by_hand.commit(mine, 2, rewind=True)
            await one.ask(wire.DeleteGroup("g"))
            with pytest.raises(GroupNotFound):
                await one.ask(wire.DescribeGroup("g"))
        nursery.cancel_scope.cancel()


async def test_what_could_not_be_stored_is_not_so(autojump_clock, everything):
    """A full disk: nobody is given anything that the log does not know; afterwards all goes on."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await prepare(mq)
            one, two = Member(mq, "one"), Member(mq, "two")
            await one.beat()
            machine.platter.faults = Faults(is_full=True)
            with pytest.raises((CoordinatorNotAvailable, CoordinatorLoading)):
                await two.ask(wire.GroupHeartbeat("g", "two", 0, topics=("t",), owned=()))
            machine.platter.faults = Faults()
            await one.beat()
            described = await one.ask(wire.DescribeGroup("g"))
            assert [member.member_id for member in described.members] == ["one"]
            await two.beat()
            await one.settle()
            await two.settle()
            assert one.assigned | two.assigned == everything
            assert not one.assigned & two.assigned
        nursery.cancel_scope.cancel()


async def test_a_coordinator_that_crashes_reads_its_log_again(autojump_clock, monkeypatch, everything):
    """Parked heartbeats are told to come again."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node() as node, machine.client() as mq:
            await prepare(mq)
            one, two = Member(mq, "one"), Member(mq, "two")
            await one.beat()
            flush = coordinator_log.CoordinatorLog.flush

            def crash(self):
                if self._outbox:
                    monkeypatch.setattr(coordinator_log.CoordinatorLog, "flush", flush)
                    raise RuntimeError("a bug in the coordinator")

            monkeypatch.setattr(coordinator_log.CoordinatorLog, "flush", crash)
            async with trio.open_nursery() as waiting:
                waiting.start_soon(one.beat, 3_000)
                await trio.sleep(0.1)
                waiting.start_soon(two.beat)
            await one.settle()
            await two.settle()
            assert one.assigned | two.assigned == everything
            assert not one.assigned & two.assigned
            assert sum(status.restarts for status in node.actors() if status.name.startswith("groups-")) == 1
        nursery.cancel_scope.cancel()


async def test_a_silent_member_is_out_and_its_commits_are_refused(autojump_clock, everything):
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await prepare(mq)
            silent, lively = Member(mq, "silent", session_ms=6_000), Member(mq, "lively")
            await silent.beat()
            await lively.beat()
            await silent.settle()
            at = min(silent.assigned)
            begun = trio.current_time()
            while lively.assigned != everything:
                assert trio.current_time() - begun < 10
                await lively.beat(wait_ms=3_000)
            assert trio.current_time() - begun > 5
            with pytest.raises(UnknownMember):
                await silent.commit(at, 1)
            with pytest.raises((UnknownMember, FencedMemberEpoch)):
                await silent.beat()
        nursery.cancel_scope.cancel()


async def test_who_watches_a_group_is_told(autojump_clock):
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await prepare(mq)
            one, two = Member(mq, "one"), Member(mq, "two")
            await one.beat()
            seen = []
            version = (await one.ask(wire.DescribeGroup("g"))).version

            async def watch():
                seen.append(await one.ask(wire.DescribeGroup("g", version, 20_000), 30_000))

            async with trio.open_nursery() as waiting:
                waiting.start_soon(watch)
                await trio.sleep(1)
                assert not seen
                await two.beat()
            assert [member.member_id for member in seen[0].members] == ["one", "two"]
            begun = trio.current_time()
            assert (await one.ask(wire.DescribeGroup("g", seen[0].version, 2_000))).version == seen[0].version
            assert trio.current_time() - begun == pytest.approx(2, abs=0.5)
            await one.ask(wire.RemoveMember("g", "two"))
            assert len((await one.ask(wire.DescribeGroup("g"))).members) == 1
        nursery.cancel_scope.cancel()


async def test_the_log_is_written_anew_with_members_in_it(autojump_clock, monkeypatch, everything):
    monkeypatch.setattr(coordinator_log, "GROUPS_REWRITE_BYTES", 5_000)
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node() as node:
            async with machine.client() as mq:
                await prepare(mq)
                one = Member(mq, "one")
                await one.beat()
                for offset in range(200):
                    await one.commit(0, offset % 11, rewind=True)
                    await one.beat()
                states = await node.admin.describe("__groups")
                assert max(state.log.log_start_offset for state in states) > 100
            machine.network.crash()
        async with machine.node(), machine.client() as mq:
            one.mq = mq
            await one.beat(owned=one.owned())
            assert (one.epoch, one.assigned) == (1, everything)
            assert await one.committed() == {0: 199 % 11}
        nursery.cancel_scope.cancel()
