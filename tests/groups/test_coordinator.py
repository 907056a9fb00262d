"""Whole nodes with groups on a virtual clock: what was committed stays, whatever crashes; members go on."""

import pytest
import trio

from dduomq.actors import coordinator_log
from dduomq.log.plans import FlushPlan
from dduomq.testing.disk import Faults
from tests.listeners.kafka_wire import KafkaWire
from tests.sim.machine import Machine
from tests.sim.test_lives import crash_at_the_next_sync

SESSION_MS = 10_000
OFFSETS = [3, 5]
COORDINATOR_LOADING, MEMBER_ID_REQUIRED = 14, 79


class Member:
    """A member of group `g` that subscribes to topic `t`; the leader gives everything to everybody."""

    def __init__(self, machine):
        self._machine = machine
        self.wire = None
        self.member_id = ""
        self.generation = -1
        self.assignment = b""

    async def connect(self):
        self.wire = KafkaWire(await self._machine.network.dial("sim", 6086))

    async def join(self):
        while True:
            joined = await self.wire.ask(
                "JoinGroup", 9, group_id="g", session_timeout_ms=SESSION_MS, rebalance_timeout_ms=30_000,
                member_id=self.member_id, protocol_type="consumer", protocols=[{"name": "range", "metadata": b"m"}],
            )  # fmt: skip
            self.member_id = joined["member_id"]
            if joined["error_code"] not in {COORDINATOR_LOADING, MEMBER_ID_REQUIRED}:
                break
            await trio.sleep(0.1)
        assert joined["error_code"] == 0
        self.generation = joined["generation_id"]
        plan = [{"member_id": m["member_id"], "assignment": b"for " + m["member_id"].encode()[-4:]}
                for m in joined["members"]]  # fmt: skip
        synced = await self.wire.ask(
            "SyncGroup", 5, group_id="g", generation_id=self.generation, member_id=self.member_id, assignments=plan
        )
        self.assignment = synced["assignment"]
        return synced["error_code"]

    async def beat(self):
        answer = await self.wire.ask(
            "Heartbeat", 4, group_id="g", generation_id=self.generation, member_id=self.member_id
        )
        return answer["error_code"]

    async def commit(self, offsets):
        answer = await self.wire.ask(
            "OffsetCommit", 9, group_id="g", generation_id_or_member_epoch=self.generation, member_id=self.member_id,
            topics=[{"name": "t", "partitions": [
                {"partition_index": at, "committed_offset": offset, "committed_metadata": "note"}
                for at, offset in enumerate(offsets)]}],
        )  # fmt: skip
        return [part["error_code"] for part in answer["topics"][0]["partitions"]]

    async def committed(self):
        answer = await self.wire.ask("OffsetFetch", 8, groups=[{"group_id": "g", "topics": None}])
        group = answer["groups"][0]
        if group["error_code"]:
            return group["error_code"]
        return [part["committed_offset"] for topic in group["topics"] for part in topic["partitions"]]


async def make_topic(machine):
    async with machine.client() as mq:
        await mq.admin.create_topic("t", partitions=2)


async def eventually(act, wanted):
    for _ in range(200):
        if (found := await act()) == wanted:
            return
        await trio.sleep(0.1)
    raise AssertionError(f"{found} is not {wanted}")


@pytest.mark.parametrize("end", ["stop", "kill", "power loss"])
async def test_groups_go_on_after_a_restart(autojump_clock, end):
    """Offsets, generation and assignment are there; members need not join again."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node():
            await make_topic(machine)
            member = Member(machine)
            await member.connect()
            assert await member.join() == 0
            assert await member.commit(OFFSETS) == [0, 0]
            if end == "kill":
                machine.platter.kill()
            elif end == "power loss":
                machine.platter.lose_power()
            machine.network.crash()
        async with machine.node():
            await member.connect()
            await eventually(member.committed, OFFSETS)
            assert await member.beat() == 0
            assert await member.commit([4, 5]) == [0, 0]
            await eventually(member.committed, [4, 5])
        nursery.cancel_scope.cancel()


async def test_a_partition_that_crashes_under_its_coordinator(autojump_clock, monkeypatch):
    """The commit fails or holds; the next one holds."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node() as node:
            await make_topic(machine)
            member = Member(machine)
            await member.connect()
            assert await member.join() == 0
            assert await member.commit(OFFSETS) == [0, 0]
            crash_at_the_next_sync(monkeypatch)
            assert set(await member.commit([9, 9])) <= {0, 15}
            await eventually(lambda: member.commit([10, 10]), [0, 0])
            assert await member.committed() == [10, 10]
            assert sum(status.restarts for status in node.actors() if status.name.startswith("__groups")) == 1
        nursery.cancel_scope.cancel()


async def test_a_coordinator_that_crashes_reads_its_log_again(autojump_clock, monkeypatch):
    """What was answered is there; what was not is told to try again."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node() as node:
            await make_topic(machine)
            member = Member(machine)
            await member.connect()
            assert await member.join() == 0
            assert await member.commit(OFFSETS) == [0, 0]
            flush = coordinator_log.CoordinatorLog.flush

            def crash(self):
                if self._outbox:
                    monkeypatch.setattr(coordinator_log.CoordinatorLog, "flush", flush)
                    raise RuntimeError("a bug in the coordinator")

            monkeypatch.setattr(coordinator_log.CoordinatorLog, "flush", crash)
            assert await member.commit([7, 7]) == [15, 15]
            await eventually(member.committed, OFFSETS)
            assert await member.beat() == 0
            assert sum(status.restarts for status in node.actors() if status.name.startswith("groups-")) == 1
        nursery.cancel_scope.cancel()


async def test_the_log_is_written_anew_before_it_grows_too_long(autojump_clock, monkeypatch):
    """A hundred times as many commits as would fit: the log stays short, the state is whole."""
    monkeypatch.setattr(coordinator_log, "GROUPS_REWRITE_BYTES", 5_000)
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node() as node:
            await make_topic(machine)
            member = Member(machine)
            await member.connect()
            assert await member.join() == 0
            for offset in range(500):
                assert await member.commit([offset, offset]) == [0, 0]
                await member.beat()
            await trio.sleep(1)
            states = await node.admin.describe("__groups")
            assert max(state.log.log_start_offset for state in states) > 500
        machine.network.crash()
        async with machine.node():
            await member.connect()
            await eventually(member.committed, [499, 499])
            assert await member.beat() == 0
        nursery.cancel_scope.cancel()


async def test_a_silent_member_loses_its_part_and_its_commits_are_refused(autojump_clock):
    """The other one is told by its next heartbeat."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node():
            await make_topic(machine)
            silent, lively = Member(machine), Member(machine)
            for member in (silent, lively):
                await member.connect()
            async with trio.open_nursery() as joining:
                joining.start_soon(silent.join)
                joining.start_soon(lively.join)
            assert silent.generation == lively.generation
            for _ in range(4):
                await trio.sleep(SESSION_MS / 4_000)
                await lively.beat()
            await eventually(lively.beat, 27)
            assert await lively.join() == 0
            assert await silent.commit([1, 1]) == [25, 25]
            assert await silent.beat() == 25
            assert lively.generation == silent.generation + 1
        nursery.cancel_scope.cancel()


async def test_a_full_disk_refuses_commits_and_loses_none(autojump_clock):
    """They go on when there is space."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node():
            await make_topic(machine)
            member = Member(machine)
            await member.connect()
            assert await member.join() == 0
            assert await member.commit(OFFSETS) == [0, 0]
            machine.platter.faults = Faults(is_full=True)
            assert await member.commit([8, 8]) == [15, 15]
            assert await member.committed() == OFFSETS
            machine.platter.faults = Faults()
            assert await member.commit([9, 9]) == [0, 0]
            assert await member.committed() == [9, 9]
        nursery.cancel_scope.cancel()


async def test_offsets_of_a_deleted_topic_are_not_those_of_the_next(autojump_clock):
    """A topic made again begins anew."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node():
            await make_topic(machine)
            member = Member(machine)
            await member.connect()
            assert await member.join() == 0
            await member.commit(OFFSETS)
            async with machine.client() as mq:
                await mq.admin.delete_topic("t")
            await make_topic(machine)
            assert await member.committed() == []
        nursery.cancel_scope.cancel()


async def test_a_refused_join_leaves_no_group_behind(autojump_clock):
    """Neither a stranger's member id, nor a senseless time-out, nor a newcomer that never comes back."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node():
            member = Member(machine)
            await member.connect()
            asked = {"rebalance_timeout_ms": 1_000, "protocol_type": "consumer",
                     "protocols": [{"name": "range", "metadata": b""}]}  # fmt: skip

            async def join(group, member_id="", session_timeout_ms=SESSION_MS):
                answer = await member.wire.ask(
                    "JoinGroup", 9, group_id=group, member_id=member_id, session_timeout_ms=session_timeout_ms, **asked
                )
                return answer["error_code"]

            await eventually(lambda: join("stranger", "nobody"), 25)
            await eventually(lambda: join("senseless", session_timeout_ms=1), 26)
            await eventually(lambda: join("never back"), MEMBER_ID_REQUIRED)
            await trio.sleep(2 * SESSION_MS / 1000)
            assert (await member.wire.ask("ListGroups", 5, states_filter=[], types_filter=[]))["groups"] == []
        nursery.cancel_scope.cancel()


def test_nothing_here_leaves_a_patch_behind():
    """`crash_at_the_next_sync` puts back what it replaced."""
    assert FlushPlan.run.__name__ == "run"
