"""Placeholder."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import attrs

from dduomq.errors import UnsupportedAssignor
from dduomq.groups.records import Place


@attrs.frozen
class Subscriber:
    member_id: str
    instance_id: str | None
    zone: str | None
    topics: frozenset[str]
    assigned: frozenset[Place]


@attrs.frozen
class Assignable:
    topic_id: str
    name: str
    partitions: int
    zones: tuple[str | None, ...] = ()


Assignor: TypeAlias = Callable[[Sequence[Subscriber], Mapping[str, Assignable]], Mapping[str, frozenset[Place]]]
DEFAULT = "sticky"


def _rr(members: Sequence[Subscriber], topics: Mapping[str, Assignable]) -> Mapping[str, frozenset[Place]]:
    out: dict[str, set[Place]] = {m.member_id: set() for m in members}
    for tid, t in sorted(topics.items()):
        subs = sorted(m.member_id for m in members if tid in m.topics)
        for p in range(t.partitions):
            if subs:
                keep = [m.member_id for m in members if (tid, p) in m.assigned and tid in m.topics]
                who = min(subs, key=lambda m: (len(out[m]), m not in keep))
                out[who].add((tid, p))
    return {m: frozenset(v) for m, v in out.items()}


ASSIGNORS: Mapping[str, Assignor] = {"sticky": _rr, "uniform": _rr, "range": _rr}


def find_assignor(name: str, own: Mapping[str, Assignor] = {}) -> Assignor:
    found = own.get(name) or ASSIGNORS.get(name)
    if found is None:
        raise UnsupportedAssignor(f"there is no assignor {name!r}; there are {', '.join(sorted({*ASSIGNORS, *own}))}")
    return found
