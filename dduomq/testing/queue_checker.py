"""What must be true of queues in a run, read off its history.

I21 a record is one worker's at a time
I22 a record is given out so often and no oftener
I24 a record that was acknowledged is never given out again
D   every record that is there has been given out when the queue has passed it
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import TypeAlias

import attrs

Place: TypeAlias = tuple[str, int]


class QueueViolation(AssertionError):
    """An invariant of queues does not hold."""


@attrs.define
class Handed:
    """A record in a worker's hand: from when to when it could be sure of it. `acked_at`: when it was told so."""

    place: Place
    offset: int
    worker: str
    count: int
    since: float
    until: float = float("inf")
    acked_at: float = float("inf")


def check_hands(handed: Iterable[Handed], deliveries: int) -> None:
    by_record: dict[tuple[Place, int], list[Handed]] = {}
    for one in handed:
        by_record.setdefault((one.place, one.offset), []).append(one)
    for ones in by_record.values():
        ones.sort(key=lambda one: one.since)
        for before, after in pairwise(ones):
            if after.since < before.until:
                raise QueueViolation(f"I21: {after} while {before}")
        for one in ones:
            if not 1 <= one.count <= deliveries:
                raise QueueViolation(f"I22: {one}; {deliveries} deliveries are the most")
        acked_at = min(one.acked_at for one in ones)
        late = [one for one in ones if one.since > acked_at]
        if late:
            raise QueueViolation(f"I24: {late[0]} after it was acknowledged at {acked_at}")


def check_passed(
    final: Mapping[Place, Iterable[tuple[int, str]]],
    handed: Iterable[Handed],
    ends: Mapping[Place, int],
    purged: Mapping[Place, tuple[int, int]],
) -> None:
    """Every record that is there at the end, before the queue's start, was in somebody's hand.

    But those that a purge was asked for (`purged`: what was acknowledged, and what was asked for): where it came to
    nothing, as the node died over it, the queue may have seen them gone, and passed them.
    """
    known = {(one.place, one.offset) for one in handed}
    for place, end in ends.items():
        asked = purged.get(place, (0, 0))[1]
        for offset, value in final.get(place, ()):
            if asked <= offset < end and (place, offset) not in known:
                raise QueueViolation(f"D: {place} is done up to {end}, nobody was given {offset}: {value!r}")
