"""Sharing out evenly with few moves: what the sticky assignors are made of.

Where all members may have all partitions, nobody ends with more than one above another, and exactly as many move as
must. Where they may not, partitions go to the least loaded, then from who has more to who has at least two less,
until no such move is left.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import attrs

from dduomq.groups.records import Place

ROUNDS_MAX = 100  # each makes the loads more even; what is left after so many is not worth the time


@attrs.frozen
class Share:
    """Partitions that any of `readers`, and nobody else, may have. Readers are member ids, in order."""

    readers: tuple[str, ...]
    places: Sequence[Place]


def shared_out(before: Mapping[str, frozenset[Place]], shares: Sequence[Share]) -> dict[str, frozenset[Place]]:
    """Every place to one of its readers. `before` has all members, with what they had."""
    readers_of = {place: share.readers for share in shares for place in share.places}
    had: dict[Place, str] = {}
    for member in sorted(before):
        for place in before[member]:
            if place in readers_of and member in readers_of[place]:
                had.setdefault(place, member)
    held: dict[str, list[Place]] = {member: [] for member in sorted(before)}
    free: list[Place] = []
    for place in sorted(readers_of):
        if place in had:
            held[had[place]].append(place)
        else:
            free.append(place)
    if len({share.readers for share in shares}) <= 1:
        _level(held, free, shares[0].readers if shares else ())
    else:
        _settle(held, free, readers_of)
    return {member: frozenset(places) for member, places in held.items()}


def _level(held: dict[str, list[Place]], free: list[Place], readers: Sequence[str]) -> None:
    """All may have all: who has too much gives up, who has too little gets."""
    if not readers:
        return
    total = len(free) + sum(len(held[reader]) for reader in readers)
    size, extra = divmod(total, len(readers))
    richest_first = sorted(readers, key=lambda reader: (-len(held[reader]), reader))
    quota = {reader: size + (number < extra) for number, reader in enumerate(richest_first)}
    for reader in richest_first:
        free += held[reader][quota[reader] :]
        del held[reader][quota[reader] :]
    free.sort(reverse=True)
    for reader in readers:
        while len(held[reader]) < quota[reader]:
            held[reader].append(free.pop())


def _settle(held: dict[str, list[Place]], free: Sequence[Place], readers_of: Mapping[Place, Sequence[str]]) -> None:
    """Who may have what differs: to the least loaded first, then moves that make it more even."""
    load = {member: len(places) for member, places in held.items()}
    for place in sorted(free, key=lambda place: (len(readers_of[place]), place)):
        reader = min(readers_of[place], key=lambda reader: (load[reader], reader))
        held[reader].append(place)
        load[reader] += 1
    for _ in range(ROUNDS_MAX):
        if not _even_out(held, load, readers_of):
            return


def _even_out(
    held: dict[str, list[Place]], load: dict[str, int], readers_of: Mapping[Place, Sequence[str]]
) -> bool:  # fmt: skip
    """One round of moves, the most loaded members first; whether there were any."""
    has_moved = False
    for member in sorted(held, key=lambda member: (-load[member], member)):
        kept: dict[Sequence[str], list[Place]] = defaultdict(list)
        for place in held[member]:
            kept[readers_of[place]].append(place)
        for readers, places in kept.items():
            while places:
                poorest = min(readers, key=lambda reader: (load[reader], reader))
                if load[poorest] + 1 >= load[member]:
                    break
                held[poorest].append(places.pop())
                load[poorest] += 1
                load[member] -= 1
                has_moved = True
        held[member] = [place for places in kept.values() for place in places]
    return has_moved
