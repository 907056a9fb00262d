"""Coordinators at bad moments: a log that is written anew, a group that goes, ids that are too long, restarts."""

from contextlib import asynccontextmanager, suppress
from random import Random

import attrs
import pytest
import trio

from dduomq.actors import coordinator, coordinator_log, journal
from dduomq.config import from_values
from dduomq.errors import FencedInstance, GroupNotEmpty, GroupNotFound, InvalidRequest, OffsetMovedBack
from dduomq.groups.assignors import round_robin
from dduomq.node import build
from dduomq.ports import Ports
from dduomq.testing.disk import Faults, SimDisk
from dduomq.wire import native_groups as wire
from tests.groups.test_classic import DELAY_S, World
from tests.groups.test_coordinator import COORDINATOR_LOADING, SESSION_MS, eventually, make_topic
from tests.groups.test_coordinator import Member as Classic
from tests.groups.test_coordinator_consumer import PARTITIONS, Member, prepare
from tests.listeners.kafka_wire import KafkaWire
from tests.sim.machine import Machine

EVERYTHING = frozenset(range(PARTITIONS))
REBALANCE_IN_PROGRESS, INVALID_REQUEST, FENCED_INSTANCE = 27, 42, 82
LONGEST = 1_000  # characters of an id


@asynccontextmanager
async def running():
    """A machine on which nodes may live, one after another."""
    async with trio.open_nursery() as nursery:
        yield Machine(nursery)
        nursery.cancel_scope.cancel()


def rewrite_once(monkeypatch):
    """The next record of any coordinator makes it write its log anew, once; its name is in the list then."""
    rewrite, done = coordinator_log.CoordinatorLog._rewrite, []

    def once(self):
        monkeypatch.setattr(coordinator_log, "GROUPS_REWRITE_BYTES", 1 << 40)
        done.append(self._mailbox.name)
        rewrite(self)

    monkeypatch.setattr(coordinator_log.CoordinatorLog, "_rewrite", once)
    monkeypatch.setattr(coordinator_log, "GROUPS_REWRITE_BYTES", 0)
    return done


def coordinator_restarts(node):
    return sum(status.restarts for status in node.actors() if status.name.startswith("groups-"))


async def let_others_run(ticks):
    for _ in range(ticks):
        await trio.lowlevel.checkpoint()


async def try_to_commit(member, offset, acked):
    """One that is overtaken by a higher one may be refused; what is taken is noted."""
    with suppress(OffsetMovedBack):
        await member.commit(0, offset)
        acked.append(offset)


# --- the log is written anew ------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", [0, 5, 15, 40])
async def test_commits_on_their_way_are_not_undone_when_the_log_is_written_anew(autojump_clock, monkeypatch, ticks):
    """What was acknowledged is shown, before a restart and after it."""
    async with running() as machine:
        async with machine.node():
            async with machine.client() as mq:
                await prepare(mq)
                one, acked = Member(mq, "one"), []
                await one.beat()
                await one.commit(0, 1)
                done = rewrite_once(monkeypatch)
                async with trio.open_nursery() as together:
                    for offset in (2, 3, 4):
                        together.start_soon(try_to_commit, one, offset, acked)
                        await let_others_run(ticks)
                await trio.sleep(1)
                assert done
                assert await one.committed() == {0: max(acked)}
            machine.network.crash()
        async with machine.node(), machine.client() as mq:
            one.mq = mq
            await one.beat(owned=one.owned())
            assert await one.committed() == {0: max(acked)}


async def test_a_group_of_more_than_a_batch_is_written_anew_whole(autojump_clock, monkeypatch):
    monkeypatch.setattr(journal, "BATCH_BYTES", 2_000)
    async with running() as machine:
        async with machine.node():
            async with machine.client() as mq:
                await prepare(mq)
                one = Member(mq, "one", zone="z" * LONGEST, instance_id="i" * LONGEST)
                await one.beat()
                for partition in range(4):
                    await one.commit(partition, 5)
                done = rewrite_once(monkeypatch)
                await one.commit(0, 6)
                await trio.sleep(1)
                assert done
                assert await one.committed() == {0: 6, 1: 5, 2: 5, 3: 5}
            machine.network.crash()
        async with machine.node(), machine.client() as mq:
            one.mq = mq
            await one.beat(owned=one.owned())
            assert one.epoch == 1
            assert await one.committed() == {0: 6, 1: 5, 2: 5, 3: 5}


async def test_members_are_kept_when_the_log_is_written_anew_in_a_rebalance(autojump_clock, monkeypatch):
    """One has left, the other one is to join again: after a restart the group knows it, and what it committed."""
    async with running() as machine:
        async with machine.node():
            await make_topic(machine)
            one, two = Classic(machine), Classic(machine)
            for member in (one, two):
                await member.connect()
            async with trio.open_nursery() as joining:
                joining.start_soon(one.join)
                joining.start_soon(two.join)
            assert one.generation == two.generation
            done = rewrite_once(monkeypatch)
            await one.wire.ask("LeaveGroup", 5, group_id="g", members=[{"member_id": one.member_id}])
            assert await two.beat() == REBALANCE_IN_PROGRESS
            assert await two.commit([1, 1]) == [0, 0]
            await trio.sleep(1)
            assert done
            machine.network.crash()
        async with machine.node():
            await two.connect()
            codes = set()
            with trio.move_on_after(2 * SESSION_MS / 1000):  # the session of the one that left ends meanwhile
                while REBALANCE_IN_PROGRESS not in codes:
                    codes.add(await two.beat())
                    await trio.sleep(0.1)
            assert codes <= {0, COORDINATOR_LOADING, REBALANCE_IN_PROGRESS}
            assert REBALANCE_IN_PROGRESS in codes
            assert await two.committed() == [1, 1]


# --- commits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", [0, 1, 5, 20])
async def test_of_two_commits_at_once_the_higher_one_stays(autojump_clock, ticks):
    """The strict check sees those that are not stored yet."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await prepare(mq)
        one, acked = Member(mq, "one"), []
        await one.beat()
        for _ in range(5):
            await one.commit(0, 0, rewind=True)
            async with trio.open_nursery() as together:
                together.start_soon(try_to_commit, one, 7, acked)
                await let_others_run(ticks)
                together.start_soon(try_to_commit, one, 3, acked)
            assert await one.committed() == {0: 7}


async def test_a_commit_in_the_moment_in_which_its_group_expires(autojump_clock, monkeypatch):
    """The group was unused for long, and is to be forgotten: the commit holds, whichever is first."""
    monkeypatch.setattr(coordinator, "OFFSET_RETENTION_MS", 20_000)
    monkeypatch.setattr(coordinator, "EXPIRY_INTERVAL_S", 10)
    async with running() as machine, machine.node(), machine.client() as mq:
        await prepare(mq)
        simple = Member(mq, "")
        simple.epoch = -1
        await mq.admin.list_groups()
        machine.platter.faults = Faults(slowness=300)
        shown = []
        for step in range(40):
            for partition in (0, 1):
                await simple.commit(partition, 5, rewind=True)
            await trio.sleep(20 + step * 0.25)
            await simple.commit(0, 6)
            await trio.sleep(10)  # what is on its way into the log arrives
            shown.append(await simple.committed())
        assert {committed[0] for committed in shown} == {6}
        assert {len(committed) for committed in shown} == {1, 2}  # the group went before some of them


# --- groups that go ---------------------------------------------------------------------------------


async def test_who_watches_a_group_that_is_deleted_is_told_at_once(autojump_clock):
    async with running() as machine, machine.node(), machine.client() as mq:
        await prepare(mq)
        one = Member(mq, "one")
        await one.beat()
        await one.ask(wire.GroupHeartbeat("g", "one", wire.LEAVE))
        version = (await one.ask(wire.DescribeGroup("g"))).version
        told_at = []

        async def watch():
            with pytest.raises(GroupNotFound):
                await one.ask(wire.DescribeGroup("g", version, 20_000), 60_000)
            told_at.append(trio.current_time())

        async with trio.open_nursery() as waiting:
            waiting.start_soon(watch)
            await trio.sleep(1)
            assert not told_at
            await one.ask(wire.DeleteGroup("g"))
            deleted_at = trio.current_time()
        assert told_at[0] - deleted_at < 1


async def test_who_joins_a_group_that_is_being_deleted_is_in_a_new_one(autojump_clock):
    """Whichever is first: what is shown before a restart is shown after it, and after a delete nothing of before."""
    outcomes = set()
    async with running() as machine:
        for ticks in (0, 1, 2, 3, 5, 8, 12, 20, 40):
            async with machine.node(), machine.client() as mq:
                if not ticks:
                    await prepare(mq)
                one, two = Member(mq, "one"), Member(mq, "two")
                await one.beat()
                await one.commit(0, 5, rewind=True)
                await one.ask(wire.GroupHeartbeat("g", "one", wire.LEAVE))
                is_deleted = await delete_while_joining(one, two, ticks)
                before = await two.committed()
                assert before == ({} if is_deleted else {0: 5})
                outcomes.add(is_deleted)
                machine.network.crash()
            async with machine.node(), machine.client() as mq:
                two.mq = mq
                await two.beat(owned=two.owned())
                assert two.assigned == EVERYTHING
                assert await two.committed() == before
                await two.ask(wire.GroupHeartbeat("g", "two", wire.LEAVE))
        assert True in outcomes


async def delete_while_joining(one, two, ticks):
    """Whether the group was deleted; if not, the other one was in it before that."""
    is_deleted = False

    async def delete():
        nonlocal is_deleted
        with suppress(GroupNotEmpty):
            await one.ask(wire.DeleteGroup("g"))
            is_deleted = True

    async with trio.open_nursery() as together:
        together.start_soon(delete)
        await let_others_run(ticks)
        together.start_soon(two.beat)
    return is_deleted


# --- restarts ---------------------------------------------------------------------------------------


async def test_members_that_once_gave_up_partitions_stay_after_a_restart(autojump_clock):
    """What they were to let go by some time they have let go: that time means nothing any more."""
    async with running() as machine:
        async with machine.node():
            async with machine.client() as mq:
                await prepare(mq)
                one, two = Member(mq, "one"), Member(mq, "two")
                await one.beat()
                await two.beat()
                await one.settle()
                await two.settle()
            machine.network.crash()
        held = one.assigned
        async with machine.node(), machine.client() as mq:
            one.mq = two.mq = mq
            for _ in range(30):
                await one.beat(wait_ms=3_000)
                await two.beat()
            assert one.epoch > 0
            assert one.assigned == held


class Process:
    """One process after another of the static member `i-1`, the only one of its group."""

    def __init__(self, machine):
        self._machine = machine
        self.member_id, self.generation, self.assignment = "", -1, b""

    async def ask(self, api, version, **fields):
        """Until the coordinator has read its log."""
        kafka = KafkaWire(await self._machine.network.dial("sim", 6086))
        for _ in range(100):
            answer = await kafka.ask(api, version, group_id="g", group_instance_id="i-1", **fields)
            if answer["error_code"] != COORDINATOR_LOADING:
                return answer
            await trio.sleep(0.1)
        raise AssertionError("the coordinator does not come")

    async def join(self):
        joined = await self.ask(
            "JoinGroup", 9, session_timeout_ms=SESSION_MS, rebalance_timeout_ms=30_000, member_id="",
            protocol_type="consumer", protocols=[{"name": "range", "metadata": b"m"}],
        )  # fmt: skip
        assert joined["error_code"] == 0
        self.member_id, self.generation = joined["member_id"], joined["generation_id"]
        plan = [{"member_id": member["member_id"], "assignment": b"part"} for member in joined["members"]]
        synced = await self.ask(
            "SyncGroup", 5, generation_id=self.generation, member_id=self.member_id, assignments=plan
        )
        self.assignment = synced["assignment"]

    async def beat(self):
        answer = await self.ask("Heartbeat", 4, generation_id=self.generation, member_id=self.member_id)
        return answer["error_code"]


async def test_a_static_members_next_process_is_known_after_a_restart(autojump_clock):
    """Before it and after it the old process is fenced, and the new one keeps its part."""
    async with running() as machine:
        old, new = Process(machine), Process(machine)
        async with machine.node():
            await make_topic(machine)
            await old.join()
            await new.join()
            assert new.member_id != old.member_id
            assert new.assignment == b"part"
            assert (await new.beat(), await old.beat()) == (0, FENCED_INSTANCE)
            machine.network.crash()
        async with machine.node():
            assert (await new.beat(), await old.beat()) == (0, FENCED_INSTANCE)


async def test_an_assignor_that_is_no_more_costs_nobody_a_partition(autojump_clock):
    """Its user has given it up, and starts again: the node's own one shares out, the coordinator lives."""

    @asynccontextmanager
    async def node_with_an_own_assignor(machine):
        config = from_values({"data": "data", "listen": "sim:6086", "plaintext.allowed": "true"})
        config = attrs.evolve(config, assignors={"mine": round_robin})
        disk = SimDisk(machine.nursery, machine.platter, Random(3))
        async with build(Ports(machine.clock, machine.network, disk, Random(4), machine.platter.files), config) as node:
            yield node

    async with running() as machine:
        async with node_with_an_own_assignor(machine):
            async with machine.client() as mq:
                await prepare(mq)
                one, silent = Member(mq, "one", assignor="mine"), Member(mq, "silent", assignor="mine")
                await one.beat()
                await silent.beat()
                await one.settle()
                await silent.settle()
            machine.network.crash()
        async with machine.node() as node, machine.client() as mq:
            one.mq = mq
            for _ in range(25):  # the session of the silent one ends while a heartbeat waits
                await one.beat(wait_ms=3_000)
            assert one.assigned == EVERYTHING
            newcomer = Member(mq, "newcomer")
            await newcomer.beat()
            for member in (one, newcomer):
                await member.settle()
            assert one.assigned | newcomer.assigned == EVERYTHING
            assert not one.assigned & newcomer.assigned
            assert coordinator_restarts(node) == 0


# --- what members say of themselves -----------------------------------------------------------------


def test_a_newcomer_cannot_take_the_name_of_a_static_member():
    """It was given an id without a name, and comes back with one that somebody has."""
    world = World()
    world.join("a", instance="i")
    world.wait(DELAY_S)
    world.join("b", needs_id=True)
    world.join("b", world.joins["b"].member_id, instance="i")
    assert isinstance(world.joins["b"].error, FencedInstance)
    assert [member.instance_id for member in world.group.members.values()] == ["i"]


async def test_a_client_id_of_any_length_makes_a_member_id_that_can_be_stored(autojump_clock):
    async with running() as machine:
        async with machine.node() as node:
            await make_topic(machine)
            member = Classic(machine)
            member.wire = KafkaWire(await machine.network.dial("sim", 6086), client="c" * 32_760)
            assert await member.join() == 0
            assert len(member.member_id) < LONGEST
            assert coordinator_restarts(node) == 0
            machine.network.crash()
        async with machine.node():
            await member.connect()
            await eventually(member.beat, 0)


async def test_a_group_instance_id_that_is_too_long_is_refused(autojump_clock):
    async with running() as machine, machine.node():
        kafka = KafkaWire(await machine.network.dial("sim", 6086))

        async def join(characters):
            answer = await kafka.ask(
                "JoinGroup", 9, group_id="g", session_timeout_ms=SESSION_MS, rebalance_timeout_ms=1_000, member_id="",
                group_instance_id="i" * characters, protocol_type="consumer",
                protocols=[{"name": "range", "metadata": b""}],
            )  # fmt: skip
            return answer["error_code"]

        await eventually(lambda: join(LONGEST), 0)
        assert await join(LONGEST + 1) == INVALID_REQUEST


@pytest.mark.parametrize("name", ["member_id", "instance_id", "zone", "assignor"])
async def test_ids_and_names_that_are_too_long_are_refused(autojump_clock, name):
    """Those that are just short enough can be shown by any protocol."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await prepare(mq)
        with pytest.raises(InvalidRequest):
            await Member(mq, **{"member_id": "m", name: "x" * (LONGEST + 1)}).beat()
        if name != "assignor":  # there is none of that name
            await Member(mq, **{"member_id": "m", name: "x" * LONGEST}).beat()
            kafka = KafkaWire(await machine.network.dial("sim", 6086))
            [described] = (await kafka.ask("ConsumerGroupDescribe", 0, group_ids=["g"]))["groups"]
            assert (described["error_code"], len(described["members"])) == (0, 1)


async def test_a_leader_epoch_that_no_protocol_can_show_is_refused(autojump_clock):
    async with running() as machine, machine.node(), machine.client() as mq:
        await prepare(mq)
        await mq.admin.list_groups()
        for leader_epoch, code in ((2**31 - 1, 0), (2**31, InvalidRequest.code), (-2, InvalidRequest.code)):
            parts = (wire.CommitPart("t", 0, 1, leader_epoch=leader_epoch),)
            answer = await Member(mq, "").ask(wire.CommitOffsets("g", "", -1, parts))
            assert answer.parts[0].code == code
        kafka = KafkaWire(await machine.network.dial("sim", 6086))
        [group] = (await kafka.ask("OffsetFetch", 8, groups=[{"group_id": "g", "topics": None}]))["groups"]
        assert group["topics"][0]["partitions"][0]["committed_leader_epoch"] == 2**31 - 1
