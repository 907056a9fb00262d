"""The classic group machine: scenarios by hand, then hordes of members by chance."""

import itertools
from random import Random

import pytest

from dduomq.errors import (
    FencedInstance,
    IllegalGeneration,
    InconsistentProtocol,
    InvalidSessionTimeout,
    MemberIdRequired,
    RebalanceInProgress,
    UnknownMember,
)
from dduomq.groups.classic import COMPLETING, EMPTY, PREPARING, STABLE, ClassicGroup
from dduomq.groups.member import JoinRequest
from dduomq.limits import INITIAL_REBALANCE_DELAY_MS, MEMBER_METADATA_BYTES_MAX, MEMBER_PROTOCOLS_MAX

DELAY_S = INITIAL_REBALANCE_DELAY_MS / 1000
SESSION_S, REBALANCE_S = 10, 60


class World:
    """A group, a clock, and what everybody was answered."""

    def __init__(self):
        self.group = ClassicGroup("g")
        self.now = 100.0
        self.ids = itertools.count(1)
        self.joins = {}
        self.syncs = {}

    def join(self, who, member_id="", *, protocols=(("range", b"m"),), kind="consumer", instance=None, needs_id=False,
             session_s=SESSION_S):  # fmt: skip
        request = JoinRequest(
            member_id, instance, who, "host", int(session_s * 1000), REBALANCE_S * 1000, kind, tuple(protocols),
            needs_id,
        )  # fmt: skip
        self.joins.pop(who, None)
        self.group.join(
            request, self.now, lambda: str(next(self.ids)), lambda result: self._note(self.joins, who, result)
        )

    def sync(self, who, assignments=None, *, member_id=None, generation=None):
        joined = self.joins[who]
        self.syncs.pop(who, None)
        member_id = joined.member_id if member_id is None else member_id
        return self.group.sync(
            member_id, None, joined.generation if generation is None else generation, assignments or {}, self.now,
            lambda result: self._note(self.syncs, who, result),
        )  # fmt: skip

    @staticmethod
    def _note(answers, who, result):
        assert who not in answers, f"{who} was answered twice"
        answers[who] = result

    def wait(self, seconds):
        self.now += seconds
        self.group.tick(self.now)

    def stable(self, *names):
        """A group of these members, the first its leader."""
        for name in names:
            self.join(name)
        self.wait(DELAY_S)
        leader = next(name for name in names if self.joins[name].member_id == self.group.leader)
        plan = {self.joins[name].member_id: name.encode() for name in names}
        for name in names:
            if name != leader:
                self.sync(name)
        assert self.sync(leader, plan)
        self.group.stored(self.group.generation, self.now)
        assert self.group.state == STABLE
        return leader

    def beat(self, who):
        joined = self.joins[who]
        self.group.heartbeat(joined.member_id, None, joined.generation, self.now)


@pytest.fixture
def world():
    return World()


def test_the_first_members_wait_for_each_other(world):
    """Two that come at about the same time are one generation."""
    world.join("a")
    world.wait(DELAY_S / 2)
    world.join("b")
    assert not world.joins
    world.wait(DELAY_S)
    assert {name: result.generation for name, result in world.joins.items()} == {"a": 1, "b": 1}
    leader = world.joins["a"]
    assert leader.leader == leader.member_id
    assert {member[0] for member in leader.members} == {world.joins["a"].member_id, world.joins["b"].member_id}
    assert world.joins["b"].members == ()
    assert world.group.state == COMPLETING


def test_assignments_are_given_out_once_they_are_stored(world):
    """Not before: a coordinator that crashed in between would not know them."""
    world.join("a")
    world.join("b")
    world.wait(DELAY_S)
    plan = {world.joins[name].member_id: name.encode() for name in "ab"}
    assert not world.sync("b")
    assert world.sync("a", plan)
    assert not world.syncs
    world.group.stored(1, world.now)
    assert {name: result.assignment for name, result in world.syncs.items()} == {"a": b"a", "b": b"b"}
    assert world.group.state == STABLE
    assert not world.sync("b")
    assert world.syncs["b"].assignment == b"b", "asking again gives the same"


def test_what_could_not_be_stored_is_tried_again(world):
    """Everybody is told, and joins again."""
    world.join("a")
    world.wait(DELAY_S)
    assert world.sync("a", {})
    world.group.not_stored(1, world.now)
    assert world.syncs["a"].error.retriable
    world.join("a", world.joins["a"].member_id)
    assert world.joins["a"].generation == 2


def test_a_newcomer_starts_a_rebalance_that_the_others_hear_of(world):
    """By their heartbeat; who does not come back in time is out."""
    world.stable("a", "b")
    world.join("c")
    with pytest.raises(RebalanceInProgress):
        world.beat("a")
    world.join("a", world.joins["a"].member_id)
    assert "c" not in world.joins, "b is awaited"
    for _ in range(REBALANCE_S // 5):
        with pytest.raises(RebalanceInProgress):
            world.beat("b")
        world.wait(5)
    assert world.joins["c"].generation == 2
    assert len(world.group.members) == 2
    with pytest.raises(UnknownMember):
        world.beat("b")


def test_a_silent_member_is_out_after_its_session(world):
    """Its partitions go to the others."""
    world.stable("a", "b")
    a, b = world.joins["a"].member_id, world.joins["b"].member_id
    world.wait(SESSION_S / 2)
    world.beat("a")
    world.wait(SESSION_S / 2 + 0.1)
    assert list(world.group.members) == [a]
    assert world.group.state == PREPARING
    with pytest.raises(UnknownMember):
        world.group.heartbeat(b, None, 1, world.now)
    world.join("a", a)
    assert world.joins["a"].generation == 2


def test_leaving_is_at_once(world):
    """The last one out leaves an empty group of a new generation."""
    world.stable("a", "b")
    world.group.leave(world.joins["a"].member_id, None, world.now)
    assert world.group.state == PREPARING
    world.group.leave(world.joins["b"].member_id, None, world.now)
    assert world.group.state == EMPTY
    assert world.group.generation == 2
    with pytest.raises(UnknownMember):
        world.group.leave("nobody", None, world.now)


def test_a_newcomer_is_sent_back_with_an_id_first(world):
    """So that a client that never comes back leaves no ghost (KIP-394); it is awaited, but not for ever."""
    world.join("a", needs_id=True)
    given = world.joins["a"]
    assert isinstance(given.error, MemberIdRequired)
    world.join("a", given.member_id, needs_id=True)
    world.wait(DELAY_S)
    assert world.joins["a"].error is None
    world.join("ghost", needs_id=True)
    world.wait(SESSION_S + 1)
    assert world.group.next_due() > world.now
    world.join("ghost", world.joins["ghost"].member_id)
    assert isinstance(world.joins["ghost"].error, UnknownMember)


def test_the_way_that_most_want_is_chosen(world):
    """Among those that all know; who knows none of them is refused."""
    world.join("a", protocols=[("range", b"1"), ("sticky", b"2")])
    world.join("b", protocols=[("sticky", b"3"), ("range", b"4")])
    world.join("c", protocols=[("sticky", b"5"), ("robin", b""), ("range", b"6")])
    world.join("d", protocols=[("robin", b"")])
    assert isinstance(world.joins["d"].error, InconsistentProtocol)
    world.join("e", kind="connect")
    assert isinstance(world.joins["e"].error, InconsistentProtocol)
    world.wait(DELAY_S)
    assert world.joins["a"].protocol == "sticky"
    assert [member[2] for member in world.joins["a"].members] == [b"2", b"3", b"5"]


def test_a_member_may_not_bring_too_much(world):
    """What it brings is held as long as it is a member."""
    world.join("many", protocols=[(f"p{number}", b"") for number in range(MEMBER_PROTOCOLS_MAX + 1)])
    world.join("large", protocols=[("range", b"x" * MEMBER_METADATA_BYTES_MAX)])
    assert all(isinstance(world.joins[name].error, InconsistentProtocol) for name in ("many", "large"))
    assert not world.group.members


def test_stale_members_are_refused(world):
    """An old generation, an unknown id, a session time-out out of bounds."""
    world.stable("a")
    a = world.joins["a"].member_id
    with pytest.raises(IllegalGeneration):
        world.group.heartbeat(a, None, 7, world.now)
    with pytest.raises(UnknownMember):
        world.group.check_commit("x", None, 1, world.now)
    with pytest.raises(IllegalGeneration):
        world.group.check_commit(a, None, 0, world.now)
    with pytest.raises(UnknownMember):
        world.group.check_commit("", None, -1, world.now)
    world.group.check_commit(a, None, 1, world.now)
    world.join("b", session_s=0.01)
    assert isinstance(world.joins["b"].error, InvalidSessionTimeout)


def test_a_static_member_comes_back_without_a_rebalance(world):
    """Its next process takes over its partitions (KIP-345); the one before is fenced."""
    world.join("a", instance="one")
    world.wait(DELAY_S)
    assert world.sync("a", {world.joins["a"].member_id: b"mine"})
    world.group.stored(1, world.now)
    before = world.joins["a"].member_id
    world.join("a", instance="one")
    after = world.joins["a"]
    assert (after.generation, after.error, after.skip_assignment) == (1, None, True)
    assert after.member_id != before
    with pytest.raises(FencedInstance):
        world.group.heartbeat(before, "one", 1, world.now)
    world.sync("a")
    assert world.syncs["a"].assignment == b"mine"
    world.group.leave("", "one", world.now)
    assert world.group.state == EMPTY


def test_a_leader_that_never_brings_assignments_is_put_out(world):
    """The others start again without it."""
    world.join("a")
    world.join("b")
    world.wait(DELAY_S)
    a, b = world.joins["a"].member_id, world.joins["b"].member_id
    world.sync("b")
    for _ in range(REBALANCE_S // 5):
        world.group.heartbeat(a, None, 1, world.now)
        world.wait(5)
    assert isinstance(world.syncs["b"].error, RebalanceInProgress)
    assert list(world.group.members) == [b]
    world.join("b", b)
    assert world.joins["b"].generation == 2


def test_a_restored_group_goes_on_where_it_was(world):
    """Members keep their assignments; each has a whole session to be heard of."""
    world.stable("a", "b")
    again = ClassicGroup("g")
    again.restore(world.group.record(0), 500.0)
    assert again.state == STABLE
    assert again.next_due() == 500.0 + SESSION_S
    joined = world.joins["a"]
    again.heartbeat(joined.member_id, None, joined.generation, 505.0)
    assert again.record(0) == world.group.record(0)


@pytest.mark.parametrize("seed", range(60))
def test_hordes_by_chance_end_in_a_stable_group(seed):
    """Whatever members do: each request is answered once, and when they behave at last, all have one generation."""
    rng, world = Random(seed), World()
    names = [f"m{number}" for number in range(6)]
    for _ in range(300):
        who, chance = rng.choice(names), rng.random()
        joined = world.joins.get(who)
        if chance < 0.3:
            known = joined.member_id if joined is not None and rng.random() < 0.8 else ""
            world.join(f"{who}.{next(world.ids)}" if joined is None else who, known, needs_id=rng.random() < 0.5)
        elif chance < 0.6 and joined is not None and joined.generation > 0:
            plan = {member[0]: b"x" for member in joined.members}
            if world.sync(who, plan):
                (world.group.stored if rng.random() < 0.8 else world.group.not_stored)(joined.generation, world.now)
        elif chance < 0.7 and joined is not None and joined.member_id in world.group.members:
            world.group.leave(joined.member_id, None, world.now)
        elif chance < 0.9:
            world.wait(rng.uniform(0, 4))
        else:
            world.wait(rng.uniform(0, REBALANCE_S))
        assert world.group.next_due() > world.now or world.group.next_due() == float("inf")
    settle(world)


def settle(world):
    """Everybody that is still a member behaves well from now on."""
    world.wait(REBALANCE_S + SESSION_S + 1)
    world.wait(REBALANCE_S + SESSION_S + 1)
    assert world.group.state == EMPTY, "nobody was heard of for long"
    leader = world.stable("x", "y", "z")
    assert {world.syncs[name].assignment for name in "xyz"} == {b"x", b"y", b"z"}
    assert world.joins[leader].generation == world.group.generation
