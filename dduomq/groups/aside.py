"""Records that a group has set aside: which copies are still to be handed over, in which order.

A record is set aside when its group can't be done with it now (it comes again, from the group's retry topic) or ever
(it rests in the group's dead-letter topic). The group passes it from the moment this is in its log; the copy follows. A
pure machine. Always true: each record that is set aside has a number of its own, rising, and is handed over under it,
in that order, until that is noted; so a wheel that knows the last number it took knows what it has already.
"""

from collections import deque
from collections.abc import Iterable
from itertools import groupby

import attrs

from dduomq.groups.records import AsideRecord, Place
from dduomq.wire.ranges import Ranges, flat_of

NOWHERE, ORIGIN = "", "origin"  # besides RETRY and DEAD


@attrs.frozen
class Copy:
    """One record that is to be copied."""

    number: int
    group: str
    place: Place
    offset: int
    record: AsideRecord


class Outbox:
    """`next_number`: of the next record that is set aside."""

    __slots__ = ("_waiting", "handed", "next_number")

    def __init__(self) -> None:
        self._waiting: deque[Copy] = deque()
        self.next_number = 1
        self.handed = 0  # the last number that has been handed over

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, group: str, place: Place, record: AsideRecord) -> None:
        """These are set aside; what goes nowhere needs no number, and no copy."""
        if record.to == NOWHERE:
            return
        for number, offset in enumerate(Ranges(record.offsets), record.number):
            if number >= self.next_number:
                self._waiting.append(Copy(number, group, place, offset, record))
                self.next_number = number + 1

    def hand(self, number: int) -> None:
        """All up to that number have been handed over."""
        self.handed = max(self.handed, number)
        self.next_number = max(self.next_number, number + 1)
        while self._waiting and self._waiting[0].number <= number:
            self._waiting.popleft()

    def head(self, limit: int) -> list[Copy]:
        """The first ones that can go together: of one group and place, and all to one kind of place."""
        found: list[Copy] = []
        for copy in self._waiting:
            first = found[0] if found else copy
            if (copy.group, copy.place, copy.record.to) != (first.group, first.place, first.record.to):
                break
            found.append(copy)
            if len(found) == limit:
                break
        return found

    def records(self) -> list[tuple[str, Place, AsideRecord]]:
        """What is still open, to be written anew: with the numbers it has."""
        written = []
        for _, open_copies in groupby(self._waiting, key=lambda copy: copy.record.number):
            copies = list(open_copies)
            first = copies[0]
            offsets = flat_of(copy.offset for copy in copies)
            record = attrs.evolve(first.record, number=first.number, offsets=offsets)
            written.append((first.group, first.place, record))
        return written


def fresh(offsets: Iterable[int], held: Ranges) -> list[int]:
    """Those that are not set aside yet, in order, each once."""
    return sorted({offset for offset in offsets if offset not in held})
