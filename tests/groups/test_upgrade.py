"""A classic group that becomes one that the broker shares out for, on a virtual clock."""

import pytest
import trio

from dduomq.groups.subscription import read_assignment, read_subscription, write_assignment
from dduomq.wire import native_groups as wire
from dduomq.wire.kafka.primitives import Writer
from tests.groups.test_coordinator_consumer import PARTITIONS, Member, prepare
from tests.listeners.kafka_wire import KafkaWire
from tests.sim.machine import Machine

LOADING, ILLEGAL_GENERATION, REBALANCE_IN_PROGRESS, UNKNOWN_MEMBER, ID_REQUIRED = 14, 22, 27, 25, 79


def subscription(owned=(), topics=("t",)):
    """Version 1 of what a consumer says of itself."""
    out = Writer()
    out.int16(1)
    out.int32(len(topics))
    for topic in topics:
        out.int16(len(topic))
        out.out += topic.encode()
    out.int32(-1)
    return bytes(out.out) + write_assignment({"t": list(owned)} if owned else {})[2:-4]


class Classic:
    """A consumer that moves step by step, as the cooperative assignors' do; the leader gives itself everything."""

    def __init__(self, machine):
        self.machine = machine
        self.member_id, self.generation, self.owned = "", -1, []

    async def ask(self, api, version, **fields):
        wire = KafkaWire(await self.machine.network.dial("sim", 6086))
        for _ in range(100):
            answer = await wire.ask(api, version, group_id="g", member_id=self.member_id, **fields)
            if answer["error_code"] != LOADING:
                return answer
            await trio.sleep(0.1)
        raise AssertionError("the coordinator does not come")

    async def join(self):
        """Until it has what it is given; the error code of syncing."""
        protocols = [{"name": "cooperative", "metadata": subscription(self.owned)}]
        answer = {"error_code": ID_REQUIRED}
        while answer["error_code"] == ID_REQUIRED:
            answer = await self.ask(
                "JoinGroup", 9, session_timeout_ms=10_000, rebalance_timeout_ms=20_000, protocol_type="consumer",
                protocols=protocols,
            )  # fmt: skip
            self.member_id = answer["member_id"] or self.member_id
        assert answer["error_code"] == 0
        self.generation = answer["generation_id"]
        everything = write_assignment({"t": list(range(PARTITIONS))})
        plan = [{"member_id": self.member_id, "assignment": everything}] if answer["members"] else []
        synced = await self.ask("SyncGroup", 5, generation_id=self.generation, assignments=plan)
        if not synced["error_code"]:
            self.owned = read_assignment(synced["assignment"]).get("t", [])
        return synced["error_code"]

    async def beat(self):
        return (await self.ask("Heartbeat", 4, generation_id=self.generation))["error_code"]

    async def settle(self):
        """Join again as often as it is told."""
        for _ in range(10):
            if await self.beat() != REBALANCE_IN_PROGRESS:
                return
            await self.join()
        raise AssertionError("there is no end to it")


@pytest.mark.parametrize("crash", [False, True])
async def test_step_by_step(autojump_clock, crash):
    """The old member keeps what it has, is told to join again, gives up half, and goes; a restart changes nothing."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        old = Classic(machine)
        async with machine.node(), machine.client() as mq:
            await prepare(mq)
            assert await old.join() == 0
            assert old.owned == list(range(PARTITIONS))
            assert await old.beat() == 0
            new = Member(mq, "new")
            await new.beat()
            assert new.assigned == frozenset()
            described = await new.ask(wire.DescribeGroup("g"))
            assert (described.kind, len(described.members)) == ("consumer", 2)
            if crash:
                machine.platter.kill()
            machine.network.crash()
        async with machine.node(), machine.client() as mq:
            new.mq = mq
            await hand_over(old, new)
        nursery.cancel_scope.cancel()


async def hand_over(old, new):
    assert await old.beat() == REBALANCE_IN_PROGRESS
    await old.settle()
    await new.settle()
    assert len(old.owned) == len(new.assigned) == PARTITIONS // 2
    assert not new.assigned & set(old.owned)
    assert await old.beat() == 0
    old.generation -= 1
    assert await old.beat() == ILLEGAL_GENERATION
    old.generation += 1
    left = await old.ask("LeaveGroup", 2)
    assert left["error_code"] == 0
    assert await old.beat() == UNKNOWN_MEMBER
    await new.settle()
    assert len(new.assigned) == PARTITIONS


async def test_who_does_not_join_again_is_out(autojump_clock):
    """It lives, but holds up the others: for its rebalance time-out and no longer."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await prepare(mq)
            old, new = Classic(machine), Member(mq, "new")
            await old.join()
            await new.beat()
            begun = trio.current_time()
            while await old.beat() == REBALANCE_IN_PROGRESS:
                assert trio.current_time() - begun < 30
                await new.beat()
                await trio.sleep(1)
            assert trio.current_time() - begun >= 19
            assert await old.beat() == UNKNOWN_MEMBER
            await new.settle()
            assert len(new.assigned) == PARTITIONS
        nursery.cancel_scope.cancel()


async def test_a_classic_member_may_come_later(autojump_clock):
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await prepare(mq)
            new, late = Member(mq, "new"), Classic(machine)
            await new.beat()
            assert await late.join() == 0
            await new.settle()
            await late.settle()
            assert sorted([*late.owned, *new.assigned]) == list(range(PARTITIONS))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x01\x7f\xff\xff\xff"])
def test_what_is_not_a_consumers_reads_as_nothing(data):
    assert read_subscription(data) is None
    assert read_assignment(data) == {}


def test_subscriptions_and_assignments():
    found = read_subscription(subscription([1, 2], topics=("t", "u")))
    assert (found.topics, found.owned) == (("t", "u"), {("t", 1), ("t", 2)})
    assert read_assignment(write_assignment({"t": [0, 3]})) == {"t": [0, 3]}
