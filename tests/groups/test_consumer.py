"""Groups that the broker shares out for: nobody reads what another one holds, nothing is left unread."""

from contextlib import suppress

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dduomq.errors import (
    FencedInstance,
    FencedMemberEpoch,
    GroupFull,
    InvalidRegularExpression,
    InvalidRequest,
    InvalidSessionTimeout,
    StaleMemberEpoch,
    UnknownMember,
    UnreleasedInstance,
    UnsupportedAssignor,
)
from dduomq.groups import consumer as consumer_module
from dduomq.groups.assignors import Assignable
from dduomq.groups.consumer import EMPTY, RECONCILING, STABLE, ConsumerGroup
from dduomq.groups.consumer_member import JOIN, LEAVE, LEAVE_FOR_A_WHILE, REVOKING, WAITING, Beat
from dduomq.groups.records import decode_key, encode_key

SESSION_S = 45.0


class Topics:
    """A catalog."""

    def __init__(self, **partitions):
        self.partitions = partitions
        self.version = object()

    def topic(self, name):
        return Assignable(f"id-{name}", name, self.partitions[name]) if name in self.partitions else None

    def names(self):
        return sorted(self.partitions)

    def grow(self, name, partitions):
        self.partitions[name] = partitions
        self.version = object()


def places(*partitions, topic="t"):
    return frozenset((f"id-{topic}", at) for at in partitions)


class Reader:
    """A member that does as it is told."""

    def __init__(self, group, catalog, member_id, **said):
        self.group = group
        self.catalog = catalog
        self.member_id = member_id
        self.said = {"topics": ("t",), **said}
        self.epoch = JOIN
        self.owned = frozenset()
        self.wanted = frozenset()

    def join(self, now=0.0):
        self.epoch, self.owned = JOIN, frozenset()
        return self.beat(now, owned=frozenset(), **self.said)

    def beat(self, now=0.0, **said):
        """One heartbeat; what it is given it takes at once, what it loses it still holds until `let_go`."""
        result = self.group.heartbeat(Beat(self.member_id, self.epoch, **said), now, self.catalog)
        self.epoch = result.epoch
        if result.assignment is not None:
            self.wanted = result.assignment
            self.owned |= result.assignment
        return result

    def let_go(self, now=0.0):
        self.owned &= self.wanted
        return self.beat(now, owned=self.owned)


def test_one_member_gets_everything():
    group, topics = ConsumerGroup("g"), Topics(t=3)
    assert group.state == EMPTY
    result = Reader(group, topics, "a").join()
    assert (result.epoch, result.assignment) == (1, places(0, 1, 2))
    assert group.state == STABLE


def test_a_partition_moves_only_when_it_was_let_go():
    group, topics = ConsumerGroup("g"), Topics(t=4)
    a, b = Reader(group, topics, "a"), Reader(group, topics, "b")
    a.join()
    assert b.join().assignment == frozenset()
    assert group.members["b"].state == WAITING
    assert group.state == RECONCILING
    told = a.beat()
    assert len(told.assignment) == 2
    assert told.epoch == 1  # it keeps its epoch, and may commit, until it has let go
    assert group.members["a"].state == REVOKING
    assert b.beat().assignment is None
    assert a.let_go().epoch == 2
    assert b.beat().assignment == places(0, 1, 2, 3) - a.owned
    assert group.state == STABLE


def test_who_need_not_move_is_left_alone():
    group, topics = ConsumerGroup("g"), Topics(t=6)
    a, b, c = (Reader(group, topics, name) for name in "abc")
    a.join()
    b.join()
    a.beat()
    a.let_go()
    b.beat()
    before = b.owned
    c.join()
    a.beat()
    a.let_go()
    told = b.beat()
    assert told.assignment is None or told.assignment < before


def test_a_member_that_leaves_gives_all_back_at_once():
    group, topics = ConsumerGroup("g"), Topics(t=2)
    a, b = Reader(group, topics, "a"), Reader(group, topics, "b")
    a.join()
    b.join()
    group.heartbeat(Beat("a", LEAVE), 0, topics)
    assert b.beat().assignment == places(0, 1)
    with pytest.raises(UnknownMember):
        a.beat()


def test_who_is_not_heard_of_is_out():
    group, topics = ConsumerGroup("g"), Topics(t=2)
    a, b = Reader(group, topics, "a"), Reader(group, topics, "b")
    a.join(0)
    b.join(SESSION_S - 1)
    assert group.tick(SESSION_S - 0.1) == []
    assert group.tick(group.next_due()) == ["a"]
    assert b.beat(SESSION_S).assignment == places(0, 1)


def test_who_does_not_let_go_in_its_time_is_out():
    group, topics = ConsumerGroup("g"), Topics(t=2)
    a, b = Reader(group, topics, "a", rebalance_ms=1_000), Reader(group, topics, "b")
    a.join(0)
    b.join(1)
    a.beat(1)
    a.beat(1.9)
    assert group.tick(1.99) == []
    assert group.tick(2.0) == ["a"]
    assert b.beat(2.0).assignment == places(0, 1)
    with pytest.raises(UnknownMember):
        a.let_go(2.1)


def test_an_answer_that_was_lost_is_made_good():
    group, topics = ConsumerGroup("g"), Topics(t=2)
    a, b = Reader(group, topics, "a"), Reader(group, topics, "b")
    a.join()
    b.join()
    a.beat()
    group.heartbeat(Beat("a", 1, owned=places(0)), 0, topics)  # the answer with epoch 2 is lost
    result = group.heartbeat(Beat("a", 1, owned=frozenset()), 0, topics)
    assert (result.epoch, result.assignment) == (2, group.members["a"].assigned)
    with pytest.raises(FencedMemberEpoch):
        group.heartbeat(Beat("a", 1), 0, topics)
    with pytest.raises(FencedMemberEpoch):
        group.heartbeat(Beat("a", 7), 0, topics)


def test_a_horde_comes_and_goes():
    """Three hundred members for two hundred partitions: all is shared out in a few rounds, and again when most go."""
    group, topics = ConsumerGroup("g"), Topics(t=200)
    readers = [Reader(group, topics, f"m{number:03}") for number in range(300)]
    for reader in readers:
        reader.join()

    def settle(living):
        for _ in range(4):
            for reader in living:
                reader.beat()
                reader.let_go()

    settle(readers)
    assert group.state == STABLE
    assert sorted(len(reader.owned) for reader in readers) == [0] * 100 + [1] * 200
    for reader in readers[20:]:
        group.heartbeat(Beat(reader.member_id, LEAVE), 0, topics)
    settle(readers[:20])
    assert [len(reader.owned) for reader in readers[:20]] == [10] * 20
    held = [place for reader in readers[:20] for place in reader.owned]
    assert len(held) == len(set(held)) == 200


def test_a_static_member_finds_its_partitions_again():
    group, topics = ConsumerGroup("g"), Topics(t=2)
    a, b = Reader(group, topics, "a", instance_id="one"), Reader(group, topics, "b")
    a.join()
    b.join()
    a.beat()
    a.let_go()
    b.beat()
    held = a.owned
    with pytest.raises(UnreleasedInstance):
        Reader(group, topics, "a2", instance_id="one").join()
    group.heartbeat(Beat("a", LEAVE_FOR_A_WHILE, instance_id="one"), 5.0, topics)
    assert b.beat(5.0).assignment is None
    again = Reader(group, topics, "a2", instance_id="one")
    assert again.join(6.0).assignment == held
    assert b.beat(6.0).assignment is None
    with pytest.raises(FencedInstance):
        group.heartbeat(Beat("a", 2, instance_id="one"), 6.0, topics)


def test_a_static_member_that_stays_away_is_out():
    group, topics = ConsumerGroup("g"), Topics(t=2)
    a, b = Reader(group, topics, "a", instance_id="one"), Reader(group, topics, "b")
    a.join()
    group.heartbeat(Beat("a", LEAVE_FOR_A_WHILE, instance_id="one"), 5.0, topics)
    b.join(6.0)
    assert group.tick(5.0 + SESSION_S) == ["a"]
    assert b.beat(5.0 + SESSION_S).assignment == places(0, 1)


def test_topics_that_come_and_grow_are_shared_out():
    group, topics = ConsumerGroup("g"), Topics(t=1)
    a = Reader(group, topics, "a", topics=("t", "u"))
    assert a.join().assignment == places(0)
    topics.grow("t", 2)
    assert a.beat().assignment == places(0, 1)
    topics.grow("u", 1)
    assert a.beat().assignment == places(0, 1) | places(0, topic="u")
    assert a.beat().assignment is None


def test_a_pattern_finds_topics():
    group, topics = ConsumerGroup("g"), Topics(**{"a-one": 1, "b-one": 1})
    reader = Reader(group, topics, "a", topics=(), pattern="a-.*")
    assert reader.join().assignment == places(0, topic="a-one")
    topics.grow("a-two", 1)
    assert reader.beat().assignment == places(0, topic="a-one") | places(0, topic="a-two")
    assert reader.beat(pattern="").assignment == frozenset()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"member_id": ""}, InvalidRequest),
        ({"topics": None}, InvalidRequest),
        ({"epoch": -3}, InvalidRequest),
        ({"topics": ("t",) * 10_001}, InvalidRequest),
        ({"topics": ("t" * 2_000_000,)}, InvalidRequest),
        ({"zone": "z" * 2_000_000}, InvalidRequest),
        ({"session_ms": 5}, InvalidSessionTimeout),
        ({"pattern": "("}, InvalidRegularExpression),
        ({"pattern": "x" * 2_000}, InvalidRegularExpression),
        ({"assignor": "nope"}, UnsupportedAssignor),
    ],
)
def test_bad_words_change_nothing(said, error):
    group, topics = ConsumerGroup("g"), Topics(t=1)
    beat = attrs.evolve(Beat("a", JOIN, topics=("t",)), **said)
    with pytest.raises(error):
        group.heartbeat(beat, 0, topics)
    assert not group.has_changed
    assert not group.members


def test_a_group_is_full(monkeypatch):
    monkeypatch.setattr(consumer_module, "GROUP_MEMBERS_MAX", 1)
    group, topics = ConsumerGroup("g"), Topics(t=1)
    Reader(group, topics, "a").join()
    with pytest.raises(GroupFull):
        Reader(group, topics, "b").join()


def test_commits():
    group, topics = ConsumerGroup("g"), Topics(t=2)
    assert group.check_commit("", None, -1, places(0), 0) == frozenset()
    a, b = Reader(group, topics, "a"), Reader(group, topics, "b")
    a.join()
    with pytest.raises(UnknownMember):
        group.check_commit("", None, -1, places(0), 0)
    b.join()
    a.beat()
    assert group.check_commit("a", None, 1, places(0, 1), 0) == frozenset()  # it has not let go yet
    assert group.check_commit("b", None, 2, places(0), 0) == places(0)
    a.let_go()
    assert group.check_commit("a", None, 2, places(0, 1), 0) == places(0, 1) - a.owned
    with pytest.raises(StaleMemberEpoch):
        group.check_commit("a", None, 1, places(0), 0)


@pytest.mark.parametrize(
    "own",
    [
        lambda _members, _topics: {},
        lambda members, _topics: {m.member_id: places(0, 1) for m in members},
        lambda _members, _topics: {"nobody": places(5)},
        lambda _members, _topics: 1 / 0,
    ],
)
def test_a_users_assignor_that_is_wrong_is_not_followed(own):
    group, topics = ConsumerGroup("g", {"own": own}), Topics(t=2)
    a, b = Reader(group, topics, "a", assignor="own"), Reader(group, topics, "b", assignor="own")
    a.join()
    b.join()
    assert "own" in group.complaint
    assert group.target["a"] | group.target["b"] == places(0, 1)
    assert not group.target["a"] & group.target["b"]


def test_a_users_assignor_is_followed():
    def all_to_the_last(members, topics):
        last = max(member.member_id for member in members)
        everything = frozenset((t.topic_id, at) for t in topics.values() for at in range(t.partitions))
        return {last: everything}

    group, topics = ConsumerGroup("g", {"own": all_to_the_last}), Topics(t=2)
    Reader(group, topics, "a", assignor="own").join()
    Reader(group, topics, "b", assignor="own").join()
    assert group.target == {"a": frozenset(), "b": places(0, 1)}


# --- any order of anything --------------------------------------------------------------------------


def state_of(group):
    members = {
        m.member_id: (m.said, m.current(), group.target.get(m.member_id, frozenset())) for m in group.members.values()
    }
    return group.epoch, group.target_epoch, members


class AnyOrder(RuleBasedStateMachine):
    """Members that join, move, stall, lose answers, leave and vanish; topics that grow; a coordinator that crashes."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.serial = 0
        self.topics = Topics(t=3, u=2)
        self.group = ConsumerGroup("g")
        self.log = []
        self.readers = {}
        self.epochs = [0]

    def stored(self):
        for key, value in self.group.changes(0):
            self.log.append((encode_key(key), value))
        self.epochs.append(self.group.epoch)

    def say(self, reader, act):
        try:
            act()
        except UnknownMember:
            self.readers.pop(reader.member_id, None)  # it holds nothing any more, and knows
        except FencedMemberEpoch:
            reader.join(self.now)
        self.stored()

    def pick(self, number):
        return list(self.readers.values())[number % len(self.readers)]

    @rule(both=st.booleans(), assignor=st.sampled_from([None, "sticky", "range"]))
    def join(self, both, assignor):
        if len(self.readers) >= 5:
            return
        self.serial += 1
        reader = Reader(
            self.group, self.topics, f"m{self.serial}", topics=("t", "u") if both else ("t",), assignor=assignor
        )
        self.readers[reader.member_id] = reader
        self.say(reader, lambda: reader.join(self.now))

    @precondition(lambda self: self.readers)
    @rule(number=st.integers(0, 9), full=st.booleans())
    def beat(self, number, full):
        reader = self.pick(number)
        self.say(reader, lambda: reader.beat(self.now, owned=reader.owned if full else None))

    @precondition(lambda self: self.readers)
    @rule(number=st.integers(0, 9))
    def let_go(self, number):
        reader = self.pick(number)
        self.say(reader, lambda: reader.let_go(self.now))

    @precondition(lambda self: self.readers)
    @rule(number=st.integers(0, 9))
    def lose_an_answer(self, number):
        """Whatever it was: the member does not know whether it was heard."""
        reader = self.pick(number)
        reader.owned &= reader.wanted
        with suppress(UnknownMember, FencedMemberEpoch):
            self.group.heartbeat(Beat(reader.member_id, reader.epoch, owned=reader.owned), self.now, self.topics)
        self.stored()

    @precondition(lambda self: self.readers)
    @rule(number=st.integers(0, 9))
    def leave(self, number):
        reader = self.pick(number)
        self.say(reader, lambda: self.group.heartbeat(Beat(reader.member_id, LEAVE), self.now, self.topics))
        self.readers.pop(reader.member_id, None)

    @precondition(lambda self: self.readers)
    @rule(number=st.integers(0, 9))
    def come_again(self, number):
        """The same process, after it was told that it is out, or in doubt."""
        reader = self.pick(number)
        self.say(reader, lambda: reader.join(self.now))

    @rule(seconds=st.sampled_from([1.0, 20.0, 50.0]))
    def wait(self, seconds):
        self.now += seconds
        for member_id in self.group.tick(self.now):
            self.readers.pop(member_id, None)
        self.stored()

    @rule(name=st.sampled_from("tuv"), more=st.integers(1, 3))
    def grow(self, name, more):
        self.topics.grow(name, min(self.topics.partitions.get(name, 0) + more, 8))

    @rule()
    def crash(self):
        """What was stored is what is so."""
        before = state_of(self.group)
        self.group = ConsumerGroup("g")
        for key, value in self.log:
            self.group.apply(decode_key(key), value, self.now)
        assert state_of(self.group) == before
        for reader in self.readers.values():
            reader.group = self.group

    @rule()
    def rewrite(self):
        """The log may be written anew at any time."""
        self.log = [(encode_key(key), value) for key, value in self.group.everything(0)]

    @invariant()
    def nobody_reads_what_another_one_holds(self):
        held = [place for reader in self.readers.values() for place in reader.owned]
        assert len(held) == len(set(held))

    @invariant()
    def epochs_do_not_go_back(self):
        assert self.epochs == sorted(self.epochs)

    def teardown(self):
        """Everybody does as he is told, for a while: then all is shared out."""
        for _ in range(8):
            for reader in list(self.readers.values()):
                self.say(reader, lambda reader=reader: reader.beat(self.now))
                if reader.member_id in self.readers:
                    self.say(reader, lambda reader=reader: reader.let_go(self.now))
            self.nobody_reads_what_another_one_holds()
        if not self.readers:
            return
        assert {reader.member_id for reader in self.readers.values()} == set(self.group.members)
        assert self.group.state == STABLE
        subscribed = {name for reader in self.readers.values() for name in reader.said["topics"]}
        wanted = {
            (f"id-{name}", at) for name in subscribed if name in self.topics.partitions
            for at in range(self.topics.partitions[name])
        }  # fmt: skip
        assert {place for reader in self.readers.values() for place in reader.owned} == wanted


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
