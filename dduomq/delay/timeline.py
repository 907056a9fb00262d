"""What is due when: a hierarchical timing wheel over compact arrays.

A pure machine. Far times are kept by hour, nearer ones by minute, second; only the seconds that have been reached are
sorted. An entry takes 32 bytes while it waits, so a million of them a year out take 32 MB. Always true: an entry is
in one slot; what is popped is due, the earliest first; a clock that goes back only makes the next pop later.

The shape is the hierarchical wheel of Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (1987).
"""

import heapq
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import NamedTuple, TypeAlias

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
SPANS = (SECOND, MINUTE, HOUR)
CROWD = 20_000  # entries; a slot with more is broken up before its time: no step may take long
AHEAD_MS = 1_000  # so far ahead entries are sorted, so that what they say can be read before they are due


class Entry(NamedTuple):
    """`number` tells it from all others; `offset` is where it lies in the log, `target` an index of the owner's."""

    due_ms: int
    number: int
    offset: int
    target: int


FIELDS = len(Entry._fields)
NUMBER, OFFSET, TARGET = (Entry._fields.index(name) for name in ("number", "offset", "target"))
Slot: TypeAlias = "array[int]"


class Timeline:
    """Times are wall-clock milliseconds."""

    __slots__ = ("_broken", "_count", "_near", "_reached", "_slots")

    def __init__(self, now_ms: int) -> None:
        self._near: list[Entry] = []  # a heap
        self._slots: tuple[dict[int, Slot], ...] = tuple({} for _ in SPANS)
        self._reached = [(now_ms + AHEAD_MS) // span + 1 for span in SPANS]  # slots before these are broken up
        self._broken: tuple[set[int], ...] = tuple(set() for _ in SPANS)  # crowded slots, kept as finer ones
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, entry: Entry) -> None:
        self._count += 1
        self._place(entry)

    def fill(self, entries: Iterable[tuple[int, ...]]) -> None:
        """Add many, in their fields' order: most are far away, and go straight to their hour."""
        hours = self._slots[-1]
        for entry in entries:
            self._count += 1
            held = hours.get(entry[0] // HOUR)
            if held is None or len(held) >= CROWD * FIELDS:
                self._place(Entry(*entry))
            else:
                held.extend(entry)

    def _place(self, entry: Entry) -> None:
        slot = self._slot_of(entry.due_ms)
        if slot is None:
            heapq.heappush(self._near, entry)
            return
        level, at = slot
        slots = self._slots[level]
        held = slots.get(at)
        if held is None:
            held = slots[at] = array("q")
        held.extend(entry)
        if level and len(held) > CROWD * FIELDS:
            self._broken[level].add(at)
            for crowded in _entries(slots.pop(at)):
                self._place(crowded)

    def _slot_of(self, due_ms: int) -> tuple[int, int] | None:
        """Its level and number: of the coarsest span whose turn has not come and that is no crowd; None for none."""
        level = -1
        while level + 1 < len(SPANS) and due_ms // SPANS[level + 1] >= self._reached[level + 1]:
            level += 1
        while level > 0 and due_ms // SPANS[level] in self._broken[level]:
            level -= 1
        return None if level < 0 else (level, due_ms // SPANS[level])

    def _held(self, due_ms: int) -> "Slot | None":
        """The slot that an entry of that time is in; None for those that are sorted."""
        slot = self._slot_of(due_ms)
        return None if slot is None else self._slots[slot[0]].get(slot[1], array("q"))

    def reach(self, now_ms: int) -> None:
        """Sort what is due until a moment from now."""
        until = now_ms + AHEAD_MS
        if until // SECOND < self._reached[0]:
            return
        before = list(self._reached)
        self._reached = [max(reached, until // span + 1) for reached, span in zip(before, SPANS, strict=True)]
        for level in reversed(range(len(SPANS))):
            if self._reached[level] == before[level]:
                continue
            slots = self._slots[level]
            self._broken[level].difference_update([at for at in self._broken[level] if at < self._reached[level]])
            for at in sorted(at for at in slots if at < self._reached[level]):
                for entry in _entries(slots.pop(at)):
                    self._place(entry)

    def pop(self, now_ms: int, limit: int) -> list[Entry]:
        """Take what is due, the earliest first."""
        self.reach(now_ms)
        taken: list[Entry] = []
        while self._near and self._near[0].due_ms <= now_ms and len(taken) < limit:
            taken.append(heapq.heappop(self._near))
        self._count -= len(taken)
        return taken

    def soon(self, until_ms: int) -> list[Entry]:
        """What is due by then, of what is sorted; in no order."""
        return [entry for entry in self._near if entry.due_ms <= until_ms]

    def next_ms(self) -> int | None:
        """When something is due, or is to be sorted; None if there is nothing."""
        if self._near:
            return self._near[0].due_ms
        firsts = [min(slots) * span for slots, span in zip(self._slots, SPANS, strict=True) if slots]
        return min(firsts) - AHEAD_MS if firsts else None

    # --- single entries -----------------------------------------------------------------------------

    def find(self, due_ms: int, number: int) -> Entry | None:
        held = self._held(due_ms)
        if held is None:
            return next((entry for entry in self._near if entry[: NUMBER + 1] == (due_ms, number)), None)
        at = place_of(held, due_ms, number)
        return None if at < 0 else Entry(*held[at : at + FIELDS])

    def remove(self, due_ms: int, number: int) -> Entry | None:
        """Take it out; None if it is not here."""
        entry, slot = self.find(due_ms, number), self._slot_of(due_ms)
        if entry is None:
            return None
        self._count -= 1
        if slot is None:
            self._near.remove(entry)
            heapq.heapify(self._near)
            return entry
        slots, key = self._slots[slot[0]], slot[1]
        at = place_of(slots[key], due_ms, number)
        del slots[key][at : at + FIELDS]
        if not slots[key]:
            del slots[key]
        return entry

    # --- many ---------------------------------------------------------------------------------------

    def alive(self, wanted: Iterable[tuple[int, int]]) -> set[int]:
        """Which of these (due, number) are here, by number."""
        by_slot: dict[tuple[int, int] | None, list[tuple[int, int]]] = {}
        for due_ms, number in wanted:
            by_slot.setdefault(self._slot_of(due_ms), []).append((due_ms, number))
        found: set[int] = set()
        for pairs in by_slot.values():
            held = self._held(pairs[0][0])
            here = {entry.number for entry in self._near} if held is None else set(held[NUMBER::FIELDS])
            found.update(number for _, number in pairs if number in here)
        return found

    def move(self, moved: Mapping[int, tuple[int, int]]) -> None:
        """Entries lie elsewhere now: by number, (due, the new offset). Those that are gone meanwhile stay gone."""
        for due_ms in {self._slot_of(due_ms): due_ms for due_ms, _ in moved.values()}.values():
            held = self._held(due_ms)
            if held is None:
                self._near = [
                    entry if entry.number not in moved else entry._replace(offset=moved[entry.number][1])
                    for entry in self._near
                ]
                heapq.heapify(self._near)
                continue
            for at in range(0, len(held), FIELDS):
                if held[at + NUMBER] in moved:
                    held[at + OFFSET] = moved[held[at + NUMBER]][1]

    def entries(self, after: tuple[int, int], targets: Container[int]) -> Iterator[Entry]:
        """Those behind (due, number), the earliest first. Not to be changed meanwhile."""
        yield from sorted(entry for entry in self._near if entry.target in targets and entry[:2] > after)
        starts = [
            (at * span, slots[at])
            for slots, span in zip(self._slots, SPANS, strict=True)
            for at in slots
            if (at + 1) * span > after[0]
        ]
        for _, held in sorted(starts, key=itemgetter(0)):
            wanted = (i for i in range(0, len(held), FIELDS) if held[i + TARGET] in targets)
            found = (Entry(*held[i : i + FIELDS]) for i in wanted)
            yield from sorted(entry for entry in found if entry[:2] > after)


def place_of(slot: Slot, due_ms: int, number: int) -> int:
    """Where the entry begins, found by a search through memory; -1 if it is not here."""
    at = 0
    while True:
        try:
            at = slot.index(number, at)
        except ValueError:
            return -1
        if at % FIELDS == NUMBER and slot[at - NUMBER] == due_ms:
            return at - NUMBER
        at += 1


def _entries(slot: Slot) -> list[Entry]:
    return [Entry(*slot[at : at + FIELDS]) for at in range(0, len(slot), FIELDS)]
