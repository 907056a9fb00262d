"""Assignors: complete, exclusive, only to who subscribes, even, with few moves, the same in every process."""

import os
import subprocess
import sys
from collections import Counter

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dduomq.errors import UnsupportedAssignor
from dduomq.groups.assignors import ASSIGNORS, Assignable, Subscriber, find_assignor


def topics_of(**partitions):
    return {f"id-{name}": Assignable(f"id-{name}", name, count) for name, count in partitions.items()}


def members_of(names, *topics, assigned=None, **fields):
    ids = frozenset(f"id-{topic}" for topic in topics)
    return [Subscriber(name, None, fields.get("zone"), ids, (assigned or {}).get(name, frozenset())) for name in names]


def shown(assignment):
    return {member: sorted((topic[3:], at) for topic, at in places) for member, places in assignment.items()}


def moved(before, after):
    """Places that go from one member to another."""
    had = {place: member for member, places in before.items() for place in places}
    return [place for member, places in after.items() for place in places if had.get(place, member) != member]


def test_range_gives_neighbours():
    found = ASSIGNORS["range"](members_of("ab", "t", "u"), topics_of(t=3, u=3))
    assert shown(found) == {"a": [("t", 0), ("t", 1), ("u", 0), ("u", 1)], "b": [("t", 2), ("u", 2)]}


def test_round_robin_deals_out_in_turn():
    found = ASSIGNORS["round-robin"](members_of("ab", "t", "u"), topics_of(t=3, u=3))
    assert shown(found) == {"a": [("t", 0), ("t", 2), ("u", 1)], "b": [("t", 1), ("u", 0), ("u", 2)]}


def test_instances_are_known_by_their_names():
    """Their processes' ids change the order of nothing."""
    topics = topics_of(t=4)
    for name in ("range", "round-robin", "consistent-hash"):
        results = []
        for ids in (("1", "2"), ("9", "3")):
            members = [
                Subscriber(member_id, instance, None, frozenset(topics), frozenset())
                for member_id, instance in zip(ids, ("one", "two"), strict=True)
            ]
            found = ASSIGNORS[name](members, topics)
            results.append([found[member_id] for member_id in ids])
        assert results[0] == results[1]


@pytest.mark.parametrize("name", ["sticky", "consistent-hash"])
def test_who_leaves_moves_only_its_own(name):
    topics, names = topics_of(t=60, u=40), [f"m{at:02}" for at in range(10)]
    before = ASSIGNORS[name](members_of(names, "t", "u"), topics)
    after = ASSIGNORS[name](members_of(names[1:], "t", "u", assigned=before), topics)
    assert {place for place in moved(before, after)} == before["m00"]  # noqa: C416


def test_who_comes_takes_no_more_than_its_share():
    topics, names = topics_of(t=100), [f"m{at:02}" for at in range(10)]
    before = ASSIGNORS["sticky"](members_of(names[1:], "t"), topics)
    after = ASSIGNORS["sticky"](members_of(names, "t", assigned=before), topics)
    assert set(moved(before, after)) == after["m00"]
    assert len(after["m00"]) == 10


def test_consistent_hashing_moves_only_the_newcomers_share():
    topics, names = topics_of(t=2_000), [f"m{at:02}" for at in range(10)]
    before = ASSIGNORS["consistent-hash"](members_of(names[1:], "t"), topics)
    after = ASSIGNORS["consistent-hash"](members_of(names, "t"), topics)
    assert set(moved(before, after)) == after["m00"]
    assert 100 < len(after["m00"]) < 300
    assert max(map(len, after.values())) < 300


def test_the_same_zone_first():
    zones = ("x", "x", "y", "z", None)
    topics = {"id-t": Assignable("id-t", "t", 5, zones)}
    members = [*members_of("ab", "t", zone="x"), *members_of("c", "t", zone="y")]
    found = ASSIGNORS["same-zone"](members, topics)
    assert ("id-t", 2) in found["c"]
    assert {("id-t", 0), ("id-t", 1)} <= found["a"] | found["b"]
    assert sum(map(len, found.values())) == 5


def test_nobody_and_nothing():
    for assign in ASSIGNORS.values():
        assert assign([], topics_of(t=2)) == {}
        assert assign(members_of("a", "t"), {}) == {"a": frozenset()}
        assert assign(members_of("a"), topics_of(t=2)) == {"a": frozenset()}


def test_unknown_ones_are_named():
    with pytest.raises(UnsupportedAssignor, match="mine"):
        find_assignor("nope", {"mine": ASSIGNORS["range"]})
    assert find_assignor("mine", {"mine": ASSIGNORS["range"]}) is ASSIGNORS["range"]


TOPICS = st.dictionaries(st.sampled_from("tuvw"), st.integers(1, 12), max_size=4)
MEMBERS = st.lists(st.tuples(st.frozensets(st.sampled_from("tuvwx")), st.sampled_from([None, "x", "y"])), max_size=7)


@pytest.mark.parametrize("name", sorted(ASSIGNORS))
@settings(max_examples=60, deadline=None)
@given(partitions=TOPICS, wishes=MEMBERS, gone=st.integers(0, 6), zones=st.lists(st.sampled_from([None, "x", "z"])))
def test_always(name, partitions, wishes, gone, zones):
    """Complete, exclusive, only to who subscribes; in any order; after members have gone, too."""
    topics = {
        topic_id: attrs.evolve(topic, zones=tuple(zones[: topic.partitions]))
        for topic_id, topic in topics_of(**partitions).items()
    }
    members = [
        Subscriber(f"m{at}", None, zone, frozenset(f"id-{topic}" for topic in wish), frozenset())
        for at, (wish, zone) in enumerate(wishes)
    ]
    assign = ASSIGNORS[name]
    for _ in range(2):
        found = assign(members, topics)
        assert found == assign(members[::-1], dict(reversed(topics.items())))
        assert set(found) == {member.member_id for member in members}
        counted = Counter(place for places in found.values() for place in places)
        wanted = {
            place for topic in topics.values() for place in topic.places
            if any(topic.topic_id in member.topics for member in members)
        }  # fmt: skip
        assert counted == Counter(wanted)
        for member in members:
            assert all(topic_id in member.topics for topic_id, _ in found[member.member_id])
        members = [
            attrs.evolve(member, assigned=found[member.member_id])
            for at, member in enumerate(members) if at != gone
        ]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(partitions=TOPICS, wishes=MEMBERS, gone=st.integers(0, 6), more=st.integers(0, 3))
def test_sticky_is_even_and_still(partitions, wishes, gone, more):
    """No single move makes it more even; done again, nothing moves; where all want the same, as few move as must."""
    topics = topics_of(**partitions)
    members = [
        Subscriber(f"m{at}", None, None, frozenset(f"id-{topic}" for topic in wish), frozenset())
        for at, (wish, _) in enumerate(wishes)
    ]
    found = ASSIGNORS["sticky"](members, topics)
    load = {member: len(places) for member, places in found.items()}
    for member in members:
        for other in members:
            movable = any(topic_id in other.topics for topic_id, _ in found[member.member_id])
            assert not movable or load[member.member_id] - load[other.member_id] <= 1
    members = [attrs.evolve(member, assigned=found[member.member_id]) for member in members]
    assert ASSIGNORS["sticky"](members, topics) == found
    everything = frozenset(topics)
    same = [attrs.evolve(member, topics=everything) for at, member in enumerate(members) if at != gone]
    same += [Subscriber(f"n{at}", None, None, everything, frozenset()) for at in range(more)]
    if same:
        after = ASSIGNORS["sticky"](same, topics)
        size, extra = divmod(sum(topic.partitions for topic in topics.values()), len(same))
        kept = sorted((len(member.assigned) for member in same), reverse=True)
        must = sum(max(0, count - size - (at < extra)) for at, count in enumerate(kept))
        assert len(moved({member.member_id: member.assigned for member in same}, after)) == must


def test_every_process_says_the_same():
    """Whatever its hash seed."""
    script = (
        "from tests.groups.test_assignors import *\n"
        "for name in sorted(ASSIGNORS):\n"
        "    print(shown(ASSIGNORS[name](members_of([f'm{n}' for n in range(7)], 't', 'u'), topics_of(t=20, u=9))))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
            timeout=60, check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(outputs) == 1
    assert next(iter(outputs))
