"""How a group's partitions are shared out over its members (F33).

Pure functions of the members and the topics. Always true: every partition of a topic that somebody subscribes to
goes to exactly one member that subscribes to it; the same input gives the same output, in whatever order it comes
and in whatever process.
"""

from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import TypeAlias

import attrs

from dduomq.errors import UnsupportedAssignor
from dduomq.groups.balance import Share, shared_out
from dduomq.groups.records import Place

VIRTUAL_NODES = 200


@attrs.frozen
class Subscriber:
    """What an assignor knows of a member. `topics` by id; `assigned` is what the last target gave it."""

    member_id: str
    instance_id: str | None
    zone: str | None
    topics: frozenset[str]
    assigned: frozenset[Place]

    @property
    def name(self) -> str:
        """What it is known by as long as it may live: an instance's name outlives its processes."""
        return self.instance_id or self.member_id


@attrs.frozen
class Assignable:
    """A topic that somebody subscribes to. `zones`: where each partition's leader is, if that is known."""

    topic_id: str
    name: str
    partitions: int
    zones: tuple[str | None, ...] = ()

    @property
    def places(self) -> list[Place]:
        return [(self.topic_id, at) for at in range(self.partitions)]


Assignment: TypeAlias = Mapping[str, frozenset[Place]]
Assignor: TypeAlias = Callable[[Sequence[Subscriber], Mapping[str, Assignable]], Assignment]


def _sorted(members: Sequence[Subscriber]) -> list[Subscriber]:
    return sorted(members, key=lambda member: (member.name, member.member_id))


def _topics(topics: Mapping[str, Assignable]) -> list[Assignable]:
    return sorted(topics.values(), key=lambda topic: (topic.name, topic.topic_id))


def _frozen(members: Sequence[Subscriber], given: Mapping[str, Sequence[Place]]) -> Assignment:
    return {member.member_id: frozenset(given.get(member.member_id, ())) for member in members}


def by_range(members: Sequence[Subscriber], topics: Mapping[str, Assignable]) -> Assignment:
    """Of each topic a run of neighbours to each member; topics with as many partitions line up."""
    given: dict[str, list[Place]] = defaultdict(list)
    ordered = _sorted(members)
    for topic in _topics(topics):
        readers = [member for member in ordered if topic.topic_id in member.topics]
        if not readers:
            continue
        size, extra = divmod(topic.partitions, len(readers))
        places, at = topic.places, 0
        for number, member in enumerate(readers):
            end = at + size + (number < extra)
            given[member.member_id] += places[at:end]
            at = end
    return _frozen(members, given)


def round_robin(members: Sequence[Subscriber], topics: Mapping[str, Assignable]) -> Assignment:
    """All partitions dealt out in turn, to members that subscribe to their topic."""
    given: dict[str, list[Place]] = defaultdict(list)
    ordered = _sorted(members)
    turn = 0
    for topic in _topics(topics):
        if not any(topic.topic_id in member.topics for member in ordered):
            continue
        for place in topic.places:
            while topic.topic_id not in ordered[turn % len(ordered)].topics:
                turn += 1
            given[ordered[turn % len(ordered)].member_id].append(place)
            turn += 1
    return _frozen(members, given)


def sticky(members: Sequence[Subscriber], topics: Mapping[str, Assignable]) -> Assignment:
    """As evenly as subscriptions allow, and as little moved as that allows.

    What Kafka's server-side protocol calls uniform. Moving partitions one by one while the others are read, which its
    clients call cooperative, is how every assignment is carried out here.
    """
    shares = []
    for topic in _topics(topics):
        readers = tuple(sorted(member.member_id for member in members if topic.topic_id in member.topics))
        if readers:
            shares.append(Share(readers, topic.places))
    return shared_out({member.member_id: member.assigned for member in members}, shares)


def same_zone(members: Sequence[Subscriber], topics: Mapping[str, Assignable]) -> Assignment:
    """A partition goes to a member where its leader is, if there is one; else to any. Sticky within that."""
    shares = []
    for topic in _topics(topics):
        readers = [member for member in members if topic.topic_id in member.topics]
        by_zone: dict[str | None, list[Place]] = defaultdict(list)
        for place in topic.places:
            by_zone[topic.zones[place[1]] if place[1] < len(topic.zones) else None].append(place)
        for zone, places in sorted(by_zone.items(), key=lambda item: item[0] or ""):
            near = [member for member in readers if zone is not None and member.zone == zone]
            if readers:
                shares.append(Share(tuple(sorted(member.member_id for member in near or readers)), places))
    return shared_out({member.member_id: member.assigned for member in members}, shares)


def consistent_hash(members: Sequence[Subscriber], topics: Mapping[str, Assignable]) -> Assignment:
    """Each member has 200 places on a ring; a partition goes to the next one behind its own.

    Who comes or goes moves only its own share, whatever was before. The shares are uneven: with 200 places each,
    by about 7 % of a share (one standard deviation), and by chance where a member has few partitions.
    """
    given: dict[str, list[Place]] = defaultdict(list)
    rings: dict[frozenset[str], tuple[list[int], list[str]]] = {}
    for topic in _topics(topics):
        readers = {member.name: member.member_id for member in _sorted(members) if topic.topic_id in member.topics}
        if not readers:
            continue
        key = frozenset(readers)
        if key not in rings:
            rings[key] = _ring(sorted(readers))
        points, names = rings[key]
        for place in topic.places:
            at = bisect(points, _hash(f"{place[0]}/{place[1]}")) % len(points)
            given[readers[names[at]]].append(place)
    return _frozen(members, given)


def _ring(names: Sequence[str]) -> tuple[list[int], list[str]]:
    points = sorted((_hash(f"{name}#{number}"), name) for name in names for number in range(VIRTUAL_NODES))
    return [point for point, _ in points], [name for _, name in points]


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


DEFAULT = "sticky"
ASSIGNORS: Mapping[str, Assignor] = {
    "sticky": sticky,
    "uniform": sticky,
    "cooperative": sticky,
    "range": by_range,
    "round-robin": round_robin,
    "consistent-hash": consistent_hash,
    "same-zone": same_zone,
}


def find_assignor(name: str, own: Mapping[str, Assignor] | None = None) -> Assignor:
    """One of the user's own, or one of ours. Raises `UnsupportedAssignor`, which names those there are."""
    known = {**ASSIGNORS, **(own or {})}
    if name not in known:
        raise UnsupportedAssignor(f"there is no assignor {name!r}; there are {', '.join(sorted(known))}")
    return known[name]
