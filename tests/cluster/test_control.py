"""What the controller decides: tables of single decisions, and what holds after any of them."""

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dduomq.cluster.control import (
    ClusterState,
    TopicState,
    cancel,
    decide,
    elect,
    is_orphan,
    mentions,
    missing,
    prefer,
    reassign,
)
from dduomq.cluster.image import NO_LEADER, PartitionRecord
from dduomq.errors import InvalidReplicaAssignment
from dduomq.wire.cluster_errors import (
    ElectionNotNeeded,
    EligibleLeadersNotAvailable,
    NoReassignmentInProgress,
    PreferredLeaderNotAvailable,
)


def record(replicas, leader, isr, adding=(), removing=()):
    return PartitionRecord("t", "id", 0, replicas, leader, 5, isr, 9, 1, adding, removing)


def state(*alive, draining=()):
    return ClusterState({node: node for node in alive}, frozenset(draining))


@pytest.mark.parametrize(
    ("why", "before", "cluster", "after"),
    [
        ("all is well", ((1, 2, 3), 1, (1, 2, 3)), state(1, 2, 3), (1, (1, 2, 3))),
        ("a follower dies", ((1, 2, 3), 1, (1, 2, 3)), state(1, 3), (1, (1, 3))),
        ("the leader dies", ((1, 2, 3), 1, (1, 2, 3)), state(2, 3), (2, (2, 3))),
        ("the first in sync leads", ((1, 2, 3), 1, (1, 3)), state(2, 3), (3, (3,))),
        ("the last in sync dies", ((1, 2, 3), 1, (1,)), state(2, 3), (NO_LEADER, (1,))),
        ("all in sync die at once", ((1, 2, 3), 1, (1, 2)), state(3), (NO_LEADER, (1, 2))),
        ("the last in sync comes back", ((1, 2, 3), NO_LEADER, (1,)), state(1, 2), (1, (1,))),
        ("one of the last comes back", ((1, 2, 3), NO_LEADER, (1, 2)), state(2, 3), (2, (2,))),
        ("the leader drains", ((1, 2, 3), 1, (1, 2, 3)), state(1, 2, 3, draining={1}), (2, (1, 2, 3))),
        ("everybody drains", ((1, 2), 1, (1, 2)), state(1, 2, draining={1, 2}), (1, (1, 2))),
        ("who drains leads if it must", ((1, 2), 2, (1, 2)), state(1, draining={1}), (1, (1,))),
        ("a preferred leader waits", ((1, 2, 3), 2, (1, 2, 3)), state(1, 2, 3), (2, (1, 2, 3))),
    ],
)
def test_decisions(why, before, cluster, after):
    """Leader and in-sync set; epochs rise by one where something has changed."""
    held = record(*before)
    decided = decide(held, cluster)
    assert (decided.leader, decided.isr) == after, why
    has_changed = after != (held.leader, held.isr)
    assert decided.partition_epoch == 9 + has_changed
    assert decided.leader_epoch == 5 + (decided.leader != held.leader)
    assert (decided is held) == (not has_changed)


def test_a_registration_counts_when_it_is_admitted():
    """A node that registered anew may have lost what it had: until then it is as good as dead."""
    cluster = ClusterState.of({1: 7, 2: 4}, {1: 3, 2: 4}, draining={1, 2, 9})
    assert cluster == ClusterState({2: 4}, frozenset({2}))
    decided = decide(record((1, 2), 1, (1, 2)), cluster)
    assert (decided.leader, decided.isr) == (2, (2,))
    assert not mentions(decided, 1)
    assert mentions(decided, 2)


def test_an_unclean_election_needs_leave_and_is_marked():
    """Without leave the partition has no leader; with it the first replica that lives has a set of its own."""
    held = record((1, 2, 3), 1, (1,))
    assert decide(held, state(2, 3)).leader == NO_LEADER
    decided = decide(held, state(2, 3), is_unclean_allowed=True)
    assert (decided.leader, decided.isr, decided.is_recovering) == (2, (2,), True)
    assert decide(held, state(1, 2), is_unclean_allowed=True) is held


def test_a_move_is_done_when_all_new_replicas_are_in_sync():
    """As in KIP-455: the set grows, then shrinks; the leader goes last."""
    moving = reassign(record((1, 2, 3), 1, (1, 2, 3)), (4, 5, 3))
    assert (moving.replicas, moving.adding, moving.removing) == ((4, 5, 3, 1, 2), (4, 5), (1, 2))
    assert moving.leader == 1
    assert decide(moving, state(1, 2, 3, 4, 5)) is moving
    half = attrs.evolve(moving, isr=(1, 2, 3, 4))
    assert decide(half, state(1, 2, 3, 4, 5)) is half
    done = decide(attrs.evolve(moving, isr=(1, 2, 3, 4, 5)), state(1, 2, 3, 4, 5))
    assert (done.replicas, done.isr, done.leader, done.adding, done.removing) == ((4, 5, 3), (3, 4, 5), 4, (), ())
    assert done.leader_epoch == moving.leader_epoch + 1


def test_fewer_replicas_are_had_at_once():
    """As long as one that stays is in sync and alive."""
    fewer = reassign(record((1, 2, 3), 1, (1, 2, 3)), (2,))
    done = decide(fewer, state(1, 2, 3))
    assert (done.replicas, done.isr, done.leader) == ((2,), (2,), 2)
    waiting = attrs.evolve(fewer, isr=(1, 3))
    assert decide(waiting, state(1, 2, 3)) is waiting


def test_a_move_can_be_replaced_and_given_up():
    """The replicas from before are what counts; what was being added and is not in sync is dropped at once."""
    moving = reassign(record((1, 2), 1, (1, 2)), (3, 4))
    other = reassign(attrs.evolve(moving, isr=(1, 2, 3)), (1, 5))
    assert (other.replicas, other.adding, other.removing) == ((1, 5, 3, 2), (5,), (3, 2))
    back = cancel(attrs.evolve(moving, isr=(1, 2, 3), leader=3), state(1, 2, 3))
    assert (back.replicas, back.isr, back.leader, back.adding, back.removing) == ((1, 2), (1, 2), 1, (), ())
    with pytest.raises(NoReassignmentInProgress):
        cancel(back, state(1, 2))
    with pytest.raises(InvalidReplicaAssignment, match="only new replicas"):
        cancel(attrs.evolve(moving, isr=(3,), leader=3), state(1, 2, 3))
    with pytest.raises(InvalidReplicaAssignment, match="twice"):
        reassign(back, (1, 1))


def test_the_preferred_leader_leads_again():
    """If it is alive, in sync and not draining."""
    held = record((1, 2, 3), 2, (1, 2, 3))
    restored = prefer(held, state(1, 2, 3))
    assert (restored.leader, restored.leader_epoch) == (1, 6)
    assert prefer(restored, state(1, 2, 3)) is restored
    assert prefer(held, state(2, 3)) is held
    assert prefer(held, state(1, 2, 3, draining={1})) is held
    assert prefer(attrs.evolve(held, isr=(2, 3)), state(1, 2, 3)) is not restored


def test_elections_that_somebody_asks_for():
    """Each refusal says why."""
    held = record((1, 2, 3), 2, (1, 2, 3))
    assert elect(held, state(1, 2, 3), unclean=False).leader == 1
    with pytest.raises(PreferredLeaderNotAvailable, match="node 1"):
        elect(held, state(2, 3), unclean=False)
    with pytest.raises(ElectionNotNeeded):
        elect(record((1, 2), 1, (1, 2)), state(1, 2), unclean=False)
    with pytest.raises(ElectionNotNeeded, match="led by node 2"):
        elect(held, state(1), unclean=True)
    lost = record((1, 2, 3), NO_LEADER, (1,))
    assert elect(lost, state(3), unclean=True).is_recovering
    with pytest.raises(EligibleLeadersNotAvailable):
        elect(lost, state(), unclean=True)


def test_records_without_topic_and_topics_without_records():
    """A topic that was made anew under its name is another one."""
    topic = TopicState("t", "id", 2, 3)
    held = record((1,), 1, (1,))
    assert not is_orphan(held, topic)
    assert is_orphan(held, None)
    assert is_orphan(held, attrs.evolve(topic, topic_id="other"))
    assert is_orphan(attrs.evolve(held, partition=2), topic)
    assert list(missing(attrs.evolve(topic, partitions=4), {0, 1, 2})) == [3]
    assert list(missing(topic, ())) == []


NODES = st.integers(1, 6)


@st.composite
def partitions(draw):
    replicas = tuple(draw(st.lists(NODES, min_size=1, max_size=4, unique=True)))
    isr = tuple(draw(st.lists(st.sampled_from(replicas), min_size=1, unique=True)))
    leader = draw(st.sampled_from([NO_LEADER, *isr]))
    held = PartitionRecord("t", "id", 0, replicas, leader, draw(st.integers(0, 9)), isr)
    if draw(st.booleans()):
        held = reassign(held, draw(st.lists(NODES, min_size=1, max_size=4, unique=True)))
        if draw(st.booleans()):
            held = attrs.evolve(held, isr=tuple(dict.fromkeys((*held.isr, *held.adding))))
    return held


@st.composite
def clusters(draw):
    alive = draw(st.dictionaries(NODES, st.integers(1, 3)))
    return ClusterState(alive, frozenset(draw(st.sets(NODES))) & frozenset(alive))


def check(before, after, cluster, *, unclean):
    assert set(after.isr) <= set(after.replicas)
    assert after.isr
    assert after.leader == NO_LEADER or after.leader in after.isr
    assert after.leader == NO_LEADER or after.leader in cluster.alive
    assert len(set(after.replicas)) == len(after.replicas)
    assert set(after.adding) | set(after.removing) <= set(after.replicas)
    if after == before:
        assert after is before
    else:
        assert after.partition_epoch == before.partition_epoch + 1
        assert after.leader_epoch == before.leader_epoch + (after.leader != before.leader)
    if not unclean:
        assert set(after.isr) <= set(before.isr)
        assert not after.is_recovering
    if after.leader == NO_LEADER:
        assert not set(after.isr) & set(cluster.alive)


@settings(max_examples=400, deadline=None)
@given(held=partitions(), cluster=clusters(), unclean=st.booleans())
def test_what_holds_after_any_decision(held, cluster, unclean):
    """The promises at the head of the module; and a second decision changes nothing."""
    after = decide(held, cluster, is_unclean_allowed=unclean)
    check(held, after, cluster, unclean=unclean)
    assert decide(after, cluster, is_unclean_allowed=unclean) is after
    preferred = prefer(after, cluster)
    check(after, preferred, cluster, unclean=unclean or after.is_recovering)
    assert decide(preferred, cluster, is_unclean_allowed=unclean) is preferred


@settings(max_examples=200, deadline=None)
@given(held=partitions(), target=st.lists(NODES, min_size=1, max_size=4, unique=True), cluster=clusters())
def test_a_move_ends_with_the_replicas_asked_for(held, target, cluster):
    """Once all of them are alive and in sync."""
    assume(set(target) <= set(cluster.alive))
    moving = reassign(held, target)
    assert set(held.isr) <= set(moving.replicas)
    caught_up = attrs.evolve(moving, isr=tuple(dict.fromkeys((*moving.isr, *target))))
    done = decide(caught_up, cluster)
    assert (done.replicas, done.adding, done.removing) == (tuple(target), (), ())
    assert set(done.isr) <= set(target)
