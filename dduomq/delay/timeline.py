"""What is due when: a hierarchical timing wheel over compact arrays.

A pure machine. Far times are kept by day, nearer ones by hour, minute, second; only the seconds that have been reached
are sorted. An entry takes 32 bytes while it waits, so a million of them a year out take 32 MB. Always true: an entry is
in one slot; what is popped is due, the earliest first; a clock that goes back only makes the next pop later.

The shape is the hierarchical wheel of Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (1987).
"""

import heapq
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
SPANS = (SECOND, MINUTE, HOUR, DAY)
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

    __slots__ = ("_count", "_near", "_reached", "_slots")

    def __init__(self, now_ms: int) -> None:
        self._near: list[Entry] = []  # a heap
        self._slots: tuple[dict[int, Slot], ...] = tuple({} for _ in SPANS)
        self._reached = [(now_ms + AHEAD_MS) // span + 1 for span in SPANS]  # slots before these are broken up
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, entry: Entry) -> None:
        self._count += 1
        self._place(entry)

    def _place(self, entry: Entry) -> None:
        slot = self._slot_of(entry.due_ms)
        if slot is None:
            heapq.heappush(self._near, entry)
            return
        slots, at = slot
        held = slots.get(at)
        if held is None:
            held = slots[at] = array("q")
        held.extend(entry)

    def _slot_of(self, due_ms: int) -> tuple[dict[int, Slot], int] | None:
        """The slots of the coarsest span whose turn has not come, and which; None when all have."""
        found = None
        for level, span in enumerate(SPANS):
            if due_ms // span < self._reached[level]:
                return found
            found = self._slots[level], due_ms // span
        return found

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
        for slots, span in zip(self._slots, SPANS, strict=True):
            if slots:
                return min(slots) * span - AHEAD_MS
        return None

    # --- single entries -----------------------------------------------------------------------------

    def find(self, due_ms: int, number: int) -> Entry | None:
        slot = self._slot_of(due_ms)
        if slot is None:
            return next((entry for entry in self._near if entry[: NUMBER + 1] == (due_ms, number)), None)
        held = slot[0].get(slot[1], array("q"))
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
        slots, key = slot
        at = place_of(slots[key], due_ms, number)
        del slots[key][at : at + FIELDS]
        if not slots[key]:
            del slots[key]
        return entry

    def _same_slot(self, due_ms: int) -> Iterable[Entry]:
        slot = self._slot_of(due_ms)
        return self._near if slot is None else _entries(slot[0].get(slot[1], array("q")))

    # --- many ---------------------------------------------------------------------------------------

    def alive(self, wanted: Iterable[tuple[int, int]]) -> set[int]:
        """Which of these (due, number) are here, by number."""
        by_slot: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for due_ms, number in wanted:
            by_slot.setdefault(self._slot_key(due_ms), []).append((due_ms, number))
        found: set[int] = set()
        for pairs in by_slot.values():
            here = {entry.number for entry in self._same_slot(pairs[0][0])}
            found.update(number for _, number in pairs if number in here)
        return found

    def move(self, moved: Mapping[int, tuple[int, int]]) -> None:
        """Entries lie elsewhere now: by number, (due, the new offset). Those that are gone meanwhile stay gone."""
        for key in {self._slot_key(due_ms): due_ms for due_ms, _ in moved.values()}.values():
            slot = self._slot_of(key)
            if slot is None:
                self._near = [
                    entry if entry.number not in moved else entry._replace(offset=moved[entry.number][1])
                    for entry in self._near
                ]
                heapq.heapify(self._near)
                continue
            held = slot[0].get(slot[1], array("q"))
            for at in range(0, len(held), FIELDS):
                if held[at + NUMBER] in moved:
                    held[at + OFFSET] = moved[held[at + NUMBER]][1]

    def _slot_key(self, due_ms: int) -> tuple[int, int]:
        for level, span in enumerate(SPANS):
            if due_ms // span < self._reached[level]:
                return (level - 1, due_ms // SPANS[level - 1] if level else 0)
        return (len(SPANS) - 1, due_ms // SPANS[-1])

    def entries(self, after: tuple[int, int], targets: Container[int]) -> Iterator[Entry]:
        """Those behind (due, number), the earliest first. Not to be changed meanwhile."""
        yield from sorted(entry for entry in self._near if entry.target in targets and entry[:2] > after)
        for slots, span in zip(self._slots, SPANS, strict=True):
            for at in sorted(at for at in slots if (at + 1) * span > after[0]):
                held = slots[at]
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
