"""What a member says, and what it makes of the answers; against the group's own machine in any order."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dduomq.client.member import Membership, Moves, Subscription
from dduomq.errors import DduomqError, FencedMemberEpoch, NetworkError, UnknownMember
from dduomq.groups.consumer import ConsumerGroup
from dduomq.groups.consumer_member import Beat
from dduomq.wire.native_groups import LEAVE, LEAVE_FOR_A_WHILE, AssignedPart, GroupHeartbeatAnswer
from tests.groups.test_consumer import Topics

SAID = Subscription(group="g", topics=("t",))


def answer(epoch, *partitions):
    parts = (AssignedPart("id-t", "t", partitions),) if partitions else ()
    return GroupHeartbeatAnswer(epoch, 3_000, parts)


def places(*partitions):
    return tuple(("id-t", "t", at) for at in partitions)


def test_a_life():
    member = Membership("m", SAID)
    first = member.beat()
    assert (first.member_epoch, first.topics, first.owned, first.wait_ms) == (0, ("t",), (), 0)
    assert member.answered(answer(1, 0, 1)) == Moves(places(0, 1), ())
    second = member.beat()
    assert (second.member_epoch, second.topics, second.owned, second.wait_ms) == (1, None, None, 3_000)
    assert member.answered(answer(1, 0)) == Moves((), places(1))
    member.released(places(1))
    third = member.beat()
    assert [part.partitions for part in third.owned] == [(0,)]
    assert third.wait_ms == 0
    assert member.answered(GroupHeartbeatAnswer(2, 3_000, None)) == Moves()
    assert member.goodbye().member_epoch == LEAVE


def test_an_instance_leaves_for_a_while():
    member = Membership("m", Subscription(group="g", topics=("t",), instance_id="one"))
    assert member.beat().instance_id == "one"
    assert member.goodbye().member_epoch == LEAVE_FOR_A_WHILE


def test_in_doubt_it_says_everything_again():
    member = Membership("m", SAID)
    member.beat()
    member.answered(answer(1, 0))
    assert not member.failed(NetworkError("gone"))
    again = member.beat()
    assert (again.member_epoch, again.topics, [part.partitions for part in again.owned]) == (1, ("t",), [(0,)])


def test_who_is_out_begins_anew():
    for error in (UnknownMember(), FencedMemberEpoch()):
        member = Membership("m", SAID)
        member.answered(answer(3, 0))
        assert member.failed(error)
        assert (member.epoch, member.owned) == (0, set())
        assert member.answered(answer(4, 0)) == Moves(places(0), ())


def test_what_comes_back_before_it_was_let_go_is_kept_until_then():
    member = Membership("m", SAID)
    member.answered(answer(1, 0, 1))
    assert member.answered(answer(1, 0)) == Moves((), places(1))
    assert member.answered(answer(2, 0, 1)) == Moves()
    member.released(places(1))
    assert member.answered(answer(2, 0, 1)) == Moves(places(1), ())


class Many(RuleBasedStateMachine):
    """Clients' machines and the coordinator's, with lost questions and answers, slow work, and members that die."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.catalog = Topics(t=4)
        self.group = ConsumerGroup("g")
        self.members = {}
        self.giving_up = {}
        self.serial = 0

    @rule()
    def come(self):
        if len(self.members) < 4:
            self.serial += 1
            self.members[f"m{self.serial}"] = Membership(f"m{self.serial}", SAID)
            self.giving_up[f"m{self.serial}"] = []

    def pick(self, number):
        return list(self.members.values())[number % len(self.members)] if self.members else None

    @rule(number=st.integers(0, 9), fate=st.sampled_from(["heard", "heard", "heard", "question lost", "answer lost"]))
    def beat(self, number, fate):
        member = self.pick(number)
        if member is None:
            return
        said = member.beat()
        if fate == "question lost":
            member.failed(NetworkError("lost"))
            return
        owned = None if said.owned is None else frozenset((p.topic_id, at) for p in said.owned for at in p.partitions)
        try:
            result = self.group.heartbeat(
                Beat(said.member_id, said.member_epoch, topics=said.topics, session_ms=said.session_ms, owned=owned,
                     rebalance_ms=said.rebalance_ms),
                self.now, self.catalog,
            )  # fmt: skip
        except DduomqError as error:
            if member.failed(NetworkError("lost") if fate == "answer lost" else error):
                self.giving_up[member.member_id] = []
            return
        if fate == "answer lost":
            member.failed(NetworkError("lost"))
            return
        parts = None
        if result.assignment is not None:
            parts = (AssignedPart("id-t", "t", tuple(sorted(at for _, at in result.assignment))),)
        moves = member.answered(GroupHeartbeatAnswer(result.epoch, 3_000, parts))
        self.giving_up[member.member_id] += moves.revoked

    @rule(number=st.integers(0, 9))
    def finish_work(self, number):
        member = self.pick(number)
        if member is not None and self.giving_up[member.member_id]:
            member.released(self.giving_up[member.member_id])
            self.giving_up[member.member_id] = []

    @rule(number=st.integers(0, 9))
    def die(self, number):
        """Its session ends later; until then nobody has what it had."""
        member = self.pick(number)
        if member is not None:
            del self.members[member.member_id]

    @rule(seconds=st.sampled_from([1.0, 30.0]))
    def wait(self, seconds):
        """Who can't reach the coordinator for a session knows that all is lost."""
        self.now += seconds
        for member_id in self.group.tick(self.now):
            if member_id in self.members:
                self.members[member_id].lose()
                self.giving_up[member_id] = []

    @invariant()
    def nobody_works_on_what_another_one_does(self):
        owned = [place for member in self.members.values() for place in member.owned]
        assert len(owned) == len(set(owned))

    def teardown(self):
        for _ in range(60):
            for number in range(len(self.members)):
                self.beat(number, "heard")
                self.finish_work(number)
            self.wait(1.0)
            self.nobody_works_on_what_another_one_does()
        if self.members:
            assert {place for member in self.members.values() for place in member.owned} == set(places(0, 1, 2, 3))


TestMany = Many.TestCase
TestMany.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
