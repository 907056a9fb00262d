"""Where replicas are put, and what is moved when nodes come and go."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dduomq.cluster.image import NodeRecord, PartitionRecord
from dduomq.cluster.placement import balance, check_assignment, factor_of, load_of, place
from dduomq.errors import InvalidReplicaAssignment, InvalidReplicationFactor


def nodes(*zones, draining=()):
    return [
        NodeRecord(at, f"d{at}", (), zone, is_draining=at in draining) for at, zone in enumerate(zones, 1)
    ]  # fmt: skip


def records(assignment, topic="t"):
    return [PartitionRecord(topic, f"id-{topic}", at, r, r[0], 0, r) for at, r in enumerate(assignment)]


@pytest.mark.parametrize(("alive", "factor"), [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_three_replicas_where_there_are_three_nodes(alive, factor):
    """Where there are fewer, one on each."""
    assert factor_of(alive) == factor
    assert factor_of(alive, -1) == factor


def test_a_factor_that_can_not_be_had_is_refused_with_what_to_do():
    """More than there are nodes, or less than one."""
    with pytest.raises(InvalidReplicationFactor, match="start more nodes, or ask for at most 2"):
        place(nodes("", ""), 1, 3)
    with pytest.raises(InvalidReplicationFactor, match="at least 1"):
        factor_of(3, -2)


def test_leaders_and_replicas_are_spread_evenly():
    """Every node leads as many as every other, and keeps as many."""
    made = place(nodes("", "", "", "", ""), 20, 3)
    assert set(Counter(replicas[0] for replicas in made).values()) == {4}
    assert set(Counter(node for replicas in made for node in replicas).values()) == {12}
    followers = Counter(replicas[1:] for replicas in made if replicas[0] == 1)
    assert len(followers) > 1, "when node 1 dies, its work goes to several"


@pytest.mark.parametrize(("count", "factor"), [(3, 2), (3, 3), (4, 3), (5, 3), (5, 5)])
def test_what_a_node_leads_is_led_by_all_others_when_it_is_gone(count, factor):
    partitions = count * (count - 1) * 3
    placed = place(nodes(*[""] * count), partitions, factor)
    for gone in range(1, count + 1):
        heirs = Counter(replicas[1] for replicas in placed if replicas[0] == gone)
        assert len(heirs) == count - 1
        assert max(heirs.values()) - min(heirs.values()) <= 2


def test_replicas_are_in_different_zones():
    """With three zones of two nodes each no zone has two replicas of a partition."""
    cluster = nodes("a", "a", "b", "b", "c", "c")
    zone = {node.node_id: node.zone for node in cluster}
    made = place(cluster, 12, 3)
    assert all(len({zone[node] for node in replicas}) == 3 for replicas in made)
    assert set(Counter(node for replicas in made for node in replicas).values()) == {6}
    both = place(nodes("a", "a", "b"), 6, 2)
    assert all(3 in replicas for replicas in both)


def test_new_topics_go_where_there_is_room():
    """Topics of one partition do not all land on the first node."""
    cluster, all_of = nodes("", "", ""), []
    for at in range(9):
        all_of += records(place(cluster, 1, 1, load_of(all_of)), f"t{at}")
    assert load_of(all_of).leaders == {1: 3, 2: 3, 3: 3}


def test_a_node_that_drains_gets_nothing_new_unless_it_must():
    """With two others, a topic of two replicas passes it by; one of three can't."""
    cluster = nodes("", "", "", draining={2})
    assert all(2 not in replicas for replicas in place(cluster, 6, 2))
    assert all(2 in replicas for replicas in place(cluster, 6, 3))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ([[]], "no replica"),
        ([[1, 1]], "twice"),
        ([[1, 9]], "node 9 is not alive; these are: 1, 2"),
        ([[1], [1, 2]], "the same number"),
    ],
)
def test_an_assignment_by_hand_is_checked(assignment, message):
    """Each mistake is named."""
    with pytest.raises(InvalidReplicaAssignment, match=message):
        check_assignment(assignment, {1, 2})


def test_a_new_node_takes_its_share_and_no_more():
    """Of 12 partitions on three nodes a fourth gets nine replicas of 36, by nine moves."""
    held = records(place(nodes("", "", ""), 12, 3))
    moves = balance(held, nodes("", "", "", ""))
    assert sum(len(move.added) for move in moves) == 9
    after = load_of(apply(held, moves))
    assert set(after.replicas.values()) == {9}
    assert set(after.leaders.values()) == {3}


def test_an_emptied_node_keeps_nothing():
    """Only what was on it moves."""
    held = records(place(nodes("", "", "", ""), 16, 2))
    moves = balance(held, nodes("", "", "", ""), empty={4})
    assert sum(len(move.added) for move in moves) == 8
    assert 4 not in load_of(apply(held, moves)).replicas
    with pytest.raises(InvalidReplicationFactor, match="add a node first"):
        balance(records(place(nodes("", ""), 2, 2)), nodes("", ""), empty={2})


def test_a_dead_node_is_left_alone():
    """It may come back; who is not to come back is emptied."""
    held = records([(1, 2), (2, 1)])
    assert balance(held, nodes("")) == []


def apply(held, moves):
    changed = {move.record.key: move.replicas for move in moves}
    return records([changed.get(record.key, record.replicas) for record in held])


@settings(max_examples=60, deadline=None)
@given(
    zones=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=7),
    more=st.lists(st.sampled_from(["a", "b", "c"]), max_size=3),
    partitions=st.integers(1, 40),
    factor=st.integers(1, 4),
)
def test_placing_and_levelling_keep_their_promises(zones, more, partitions, factor):
    """Different nodes; as many zones as can be; leaders that differ by one at most; a level cluster moves nothing."""
    factor = min(factor, len(zones))
    cluster = nodes(*zones)
    held = records(place(cluster, partitions, factor))
    zone = {node.node_id: node.zone for node in nodes(*zones, *more)}
    for record in held:
        assert len(set(record.replicas)) == factor
        assert len({zone[node] for node in record.replicas}) == min(factor, len(set(zones)))
    leads = Counter({node.node_id: 0 for node in cluster})
    leads.update(record.replicas[0] for record in held)
    assert max(leads.values()) - min(leads.values()) <= 1
    grown = nodes(*zones, *more)
    levelled = apply(held, balance(held, grown))
    for before, after in zip(held, levelled, strict=True):
        assert len(set(after.replicas)) == factor
        assert len({zone[n] for n in after.replicas}) >= len({zone[n] for n in before.replicas})
    again = balance(levelled, grown)
    assert sum(len(move.added) for move in again) == 0
