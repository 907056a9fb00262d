"""What must be true of a group in a run, read off its history.

I16 a partition has one owner at a time
I17 a committed offset does not go back
I19 when the faults are over, everything is read to its end
W   a commit passes no record whose work is not done
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import TypeAlias

import attrs

Place: TypeAlias = tuple[str, int]


class GroupViolation(AssertionError):
    """An invariant of groups does not hold."""


@attrs.define
class Owned:
    """From when to when a worker owned a partition, as it knew itself."""

    place: Place
    worker: str
    since: float
    until: float = float("inf")


def check_owners(owned: Iterable[Owned]) -> None:
    by_place: dict[Place, list[Owned]] = {}
    for one in owned:
        by_place.setdefault(one.place, []).append(one)
    for ones in by_place.values():
        ones.sort(key=lambda one: (one.since, one.until))
        for before, after in pairwise(ones):
            if after.since < before.until:
                raise GroupViolation(f"I16: {after} while {before}")


def check_commits(committed: Iterable[tuple[Place, int]]) -> None:
    highest: dict[Place, int] = {}
    for place, offset in committed:
        if offset < highest.get(place, 0):
            raise GroupViolation(f"I17: {place} was committed to {highest[place]}, then it was at {offset}")
        highest[place] = offset


def check_work(
    final: Mapping[Place, Iterable[tuple[int, str]]], worked: Mapping[Place, set[int]], ends: Mapping[Place, int]
) -> None:  # fmt: skip
    """Every record that is there at the end, before the committed offset, has been worked on."""
    for place, end in ends.items():
        done = worked.get(place, set())
        for offset, value in final.get(place, ()):
            if offset < end and offset not in done:
                raise GroupViolation(f"W: {place} is committed to {end}, nobody has worked on {offset}: {value!r}")
