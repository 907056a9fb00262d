"""One wheel: the messages that wait, which batch of them goes out next, and under which sequence.

A pure machine. A message is parked (its record is in the log), then fired: the record `fired` names the batch it goes
out in, and that batch carries the wheel's own producer id, epoch and sequence, so that sending it again after a crash
makes no second copy; then delivered. Always true: a message is in one place: it waits in the timeline, or is held back
because its target is busy, or is in one open batch, or is gone; a target has `OPEN_MAX` open batches, so those before
have arrived; who is cancelled was not in a batch, and never will be.
"""

import sys
from array import array
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, repeat
from operator import attrgetter

import attrs

from dduomq.delay.handover import Origin, is_handed_over, number_of
from dduomq.delay.near import SOON_MS, Near
from dduomq.delay.recent import Recent
from dduomq.delay.records import NO_ORIGIN, Fired, Pair, Parked, Target
from dduomq.delay.schedule import Schedule, decode
from dduomq.delay.timeline import FIELDS, NUMBER, OFFSET, Entry, Timeline
from dduomq.errors import InvalidRecord, OutOfOrderSequence, TooManyDelayed
from dduomq.limits import DELAY_ROUND_MESSAGES_MAX, DELAYED_PER_WHEEL_MAX
from dduomq.wire.batch import SEQUENCE_MAX

_TARGET_AND_ORIGIN = attrgetter("target", "origin")
OPEN_MAX = 2  # batches on their way to one target: one that it is to get, and the one behind it
YOUNG_MS = 100  # by then it is known whether the batch that a message came in is stored
NOT_YET = Target("", "", -1)  # of messages that are held back until they are due
RECORD_BYTES = 120  # of a parked message, besides its own key and value


@attrs.frozen
class Scheduled:
    """A schedule, and its next message."""

    schedule: Schedule
    pair: Pair
    target: Target


@attrs.define
class Open:
    """A batch on its way, and its entries as they were, should they have to go elsewhere."""

    fired: Fired
    entries: tuple[Entry, ...]

    def touches(self, offsets: Container[int], numbers: Container[int]) -> bool:
        """Whether its record is at one of these offsets, or one of its messages among these."""
        return self.fired.offset in offsets or any(entry.number in numbers for entry in self.entries)


class Wheel:
    """Times are wall-clock milliseconds. `count` is how many wait or are on their way."""

    __slots__ = (
        "_held", "_indexes", "_recurring", "_targets", "_weighed", "_weight", "_young", "handed", "near", "open",
        "recent", "scheduled", "sequences", "timeline",
    )  # fmt: skip

    def __init__(self, now_ms: int) -> None:
        self.timeline = Timeline(now_ms)
        self.recent = Recent()
        self.handed: dict[int, int] = {}  # by owner, the highest number that it has handed over
        self.open: dict[Target, list[Open]] = {}  # by where they go, the first one first
        self.near = Near()
        self.sequences: dict[Target, tuple[int, int]] = {}  # (epoch, next sequence) of this wheel there
        self._weight = self._weighed = 0  # bytes of all that was ever parked, and how many
        self.scheduled: dict[str, Scheduled] = {}  # by name
        self._recurring: dict[int, str] = {}  # the number of a schedule's next message, and its name
        self._targets: list[Target] = []
        self._indexes: dict[Target, int] = {}
        self._held: dict[Target, array[int]] = {}  # taken from the timeline, but they can't go out yet
        self._young: deque[tuple[int, int]] = deque()  # when messages were parked, and the number of the first one

    @property
    def count(self) -> int:
        held = sum(len(entries) for entries in self._held.values()) // FIELDS
        return len(self.timeline) + held + sum(len(one.entries) for one in self._all_open())

    def _all_open(self) -> Iterator[Open]:
        return chain.from_iterable(self.open.values())

    @property
    def bytes_waiting(self) -> int:
        """About how many bytes of the log are of messages that wait or are on their way."""
        return self.count * self._weight // max(self._weighed, 1)

    def weigh(self, size_bytes: int, count: int) -> None:
        """So many more messages are in the log, with so many bytes of keys and values."""
        self._weight += size_bytes + count * RECORD_BYTES
        self._weighed += count

    def index(self, target: Target) -> int:
        found = self._indexes.get(target)
        if found is None:
            found = self._indexes[target] = len(self._targets)
            self._targets.append(target)
        return found

    def target(self, entry: Entry) -> Target:
        return self._targets[entry.target]

    # --- parking ------------------------------------------------------------------------------------

    def check_room(self, more: int) -> None:
        """Raises `TooManyDelayed`."""
        if self.count + more > DELAYED_PER_WHEEL_MAX:
            raise TooManyDelayed(f"{DELAYED_PER_WHEEL_MAX} messages wait here, not more")

    def parked(self, messages: Sequence[Parked], first_offset: int, now_ms: int) -> list[Pair]:
        """They are in the log from that offset on; their ids. What is due soon needs not be read again."""
        placed = enumerate(messages, first_offset)
        self.near.keep(message.at(offset) for offset, message in placed if message.due_ms <= now_ms + SOON_MS)
        self._grow_young(now_ms, first_offset)
        pairs: list[Pair] = []
        for (target, origin), alike in groupby(messages, _TARGET_AND_ORIGIN):
            batch = list(alike)
            offsets = range(first_offset + len(pairs), first_offset + len(pairs) + len(batch))
            dues = [message.due_ms for message in batch]
            new = list(zip(dues, offsets, strict=True))
            self.timeline.fill(zip(dues, offsets, offsets, repeat(self.index(target))))  # the last has no end
            if is_handed_over(origin):
                self.handed_over(origin)
            elif origin != NO_ORIGIN:
                self.recent.add(target, origin, new)
            size = sum(len(message.value or b"") + len(message.key or b"") for message in batch)
            self.weigh(size, len(batch))
            for message, pair in zip(batch, new, strict=True):
                if message.schedule:
                    self.scheduled_next(message, pair)
            pairs += new
        return pairs

    def known(self, messages: Sequence[Parked]) -> list[Pair] | None:
        """The messages of a batch that has been parked before, none of one handed over; None if it has new ones.

        Raises `InvalidRecord`; `OutOfOrderSequence` for one that may have been parked so long ago that nobody knows.
        """
        target, origin = messages[0].target, messages[0].origin
        if is_handed_over(origin):
            return None if self.not_handed(messages) else []
        found = self.recent.find(target, origin)
        if found is not None and len(found) != len(messages):
            raise InvalidRecord("another batch of this producer had the same sequence")
        if found is None and origin != NO_ORIGIN and self.recent.is_past(target, origin):
            raise OutOfOrderSequence("this producer has long sent other messages behind this one")
        return found

    def not_handed(self, messages: Sequence[Parked]) -> tuple[Parked, ...]:
        """Of what an owner hands over: what it has not handed over before."""
        return tuple(one for one in messages if number_of(one.origin) > self.handed.get(one.origin[0], -1))

    def handed_over(self, origin: Origin) -> None:
        """A batch that was handed over is parked. Nothing forgets that."""
        self.handed[origin[0]] = max(number_of(origin), self.handed.get(origin[0], -1))

    # --- recurring ----------------------------------------------------------------------------------

    def scheduled_next(self, message: Parked, pair: Pair) -> None:
        """The next message of a schedule is parked."""
        schedule = decode(message.schedule)
        self.unschedule(schedule.name)
        self.scheduled[schedule.name] = Scheduled(schedule, pair, message.target)
        self._recurring[pair[1]] = schedule.name

    def unschedule(self, name: str) -> None:
        """There is no schedule of that name any more."""
        before = self.scheduled.pop(name, None)
        if before is not None:
            self._recurring.pop(before.pair[1], None)

    def schedule_of(self, number: int) -> str | None:
        """The name of the schedule that a message belongs to."""
        return self._recurring.get(number)

    def cancel(self, pairs: Iterable[Pair]) -> list[Entry]:
        """Take these out; the ones that were here."""
        found = []
        for due_ms, number in pairs:
            entry = self.timeline.remove(due_ms, number) or self._unhold(due_ms, number)
            if entry is not None:
                found.append(entry)
        self.near.drop(entry.number for entry in found)
        return found

    def is_on_its_way(self, number: int) -> bool:
        """Whether the message is in a batch already."""
        return any(entry.number == number for one in self._all_open() for entry in one.entries)

    def find(self, due_ms: int, number: int) -> Entry | None:
        """The message, if it waits and may still be taken back."""
        held = (entry for entries in self._held.values() for entry in _listed(entries))
        waiting = (entry for entry in held if entry.number == number)
        return self.timeline.find(due_ms, number) or next(waiting, None)

    def _unhold(self, due_ms: int, number: int) -> Entry | None:
        for entries in self._held.values():
            for at in range(0, len(entries), FIELDS):
                entry = Entry(*entries[at : at + FIELDS])
                if entry.number == number and entry.due_ms == due_ms:
                    del entries[at : at + FIELDS]
                    return entry
        return None

    def entries(self, after: Pair, topic: str | None) -> Iterator[Entry]:
        """Those behind `after` that wait and don't recur, of one topic or all, the earliest first.

        Not to be changed meanwhile.
        """
        targets = {at for at, target in enumerate(self._targets) if topic in {None, target.topic}}
        held = sorted(entry for entries in self._held.values() for entry in _listed(entries))
        kept = (entry for entry in held if entry.target in targets and entry[:2] > after)
        found = chain(kept, self.timeline.entries(after, targets))
        return (entry for entry in found if entry.number not in self._recurring)

    # --- cleaning -----------------------------------------------------------------------------------

    def alive(self, pairs: Sequence[Pair]) -> set[int]:
        """Which of these still wait, or are on their way, by number."""
        found = self.timeline.alive(pairs)
        found.update(entry.number for entries in self._held.values() for entry in _listed(entries))
        found.update(entry.number for one in self._all_open() for entry in one.entries)
        return found.intersection(number for _, number in pairs)

    def move(self, moved: Mapping[int, tuple[int, int]]) -> None:
        """They lie elsewhere in the log now: by number, (due, the new offset)."""
        self.timeline.move(moved)
        for entries in self._held.values():
            for at in range(0, len(entries), FIELDS):
                if entries[at + NUMBER] in moved:
                    entries[at + OFFSET] = moved[entries[at + NUMBER]][1]
        for one in self._all_open():
            one.entries = tuple(entry_moved(entry, moved) for entry in one.entries)

    # --- firing -------------------------------------------------------------------------------------

    def take_due(
        self, now_ms: int, lead_ms: int, limit: int, way: Callable[[Target], Target]
    ) -> dict[Target, list[Entry]]:  # fmt: skip
        """What is due by then or soon after, by where it goes (`way`); what can't go there yet is held back.

        One that was parked just now is taken when it is due, not before: the batch it came in may be refused.
        """
        self.release(NOT_YET)
        young, found = self._first_young(now_ms), dict[Target, list[Entry]]()
        for entry in self.timeline.pop(now_ms + lead_ms, limit):
            to = way(self.target(entry))
            if entry.due_ms > now_ms and entry.number >= young:
                self.hold(NOT_YET, [entry])
            elif self.room(to):
                found.setdefault(to, []).append(entry)
            else:
                self.hold(to, [entry])
        for to in self._stranded() - found.keys():
            self.release(to)
        return found

    def _stranded(self) -> set[Target]:
        """Where messages are held back for, though no batch is on its way: those that were released are cancelled."""
        return self._held.keys() - self.open.keys() - {NOT_YET}

    def _first_young(self, now_ms: int) -> int:
        """From this number on messages were parked just now; numbers rise."""
        while self._young and self._young[0][0] + YOUNG_MS <= now_ms:
            self._young.popleft()
        return self._young[0][1] if self._young else sys.maxsize

    def _grow_young(self, now_ms: int, number: int) -> None:
        """From that number on messages are parked just now. What is noted is little: one for each millisecond."""
        self._first_young(now_ms)
        if self._young and self._young[0][0] > now_ms:  # the clock was set back
            self._young = deque([(now_ms, self._young[0][1])])
        elif not self._young or self._young[-1][0] < now_ms:
            self._young.append((now_ms, number))

    def next_ms(self, lead_ms: int) -> int | None:
        """When there is something to take, if it's taken so long before; None if there is nothing."""
        if self._stranded():
            return 0
        first = self.timeline.next_ms()
        times = [] if first is None else [first - lead_ms]
        return min([*times, *self._held.get(NOT_YET, ())[::FIELDS]], default=None)

    def room(self, to: Target) -> int:
        """How many more batches to that target may be on their way."""
        return OPEN_MAX - len(self.open.get(to, ()))

    def hold(self, to: Target, entries: Iterable[Entry]) -> None:
        """They wait for their release, as when a batch to that target has arrived."""
        held = self._held.setdefault(to, array("q"))
        for entry in entries:
            held.extend(entry)

    def give_back(self, entries: Iterable[Entry]) -> None:
        """They wait again."""
        for entry in entries:
            self.timeline.add(entry)

    def fire(self, to: Target, entries: Sequence[Entry]) -> Fired:
        """The next batch to that target. Its offset is not known before it is in the log: see `fired_at`."""
        epoch, sequence = self.sequences.get(to, (0, 0))
        self.sequences[to] = epoch, (sequence + len(entries)) & SEQUENCE_MAX
        fired = Fired(-1, to, epoch, sequence, tuple((entry.due_ms, entry.number) for entry in entries))
        self.open.setdefault(to, []).append(Open(fired, tuple(entries)))
        return fired

    def fired_at(self, fired: Fired, offset: int) -> Fired:
        """It is in the log: only now may the batch be sent."""
        one = self._open(fired)
        one.fired = attrs.evolve(fired, offset=offset)
        return one.fired

    def _open(self, fired: Fired) -> Open:
        return next(one for one in self.open[fired.target] if one.fired.is_same(fired))

    def entries_of(self, fired: Fired) -> tuple[Entry, ...]:
        """The messages of a batch on its way."""
        return self._open(fired).entries

    def delivered(self, fired: Fired) -> None:
        """The batch is in its target."""
        self._end(fired.target, [self._open(fired)])

    def fire_again(self, target: Target, kept: Sequence[Fired], epoch: int, sequence: int) -> list[Fired]:
        """These of a target's batches go out under other sequences, from that one on; the others not at all."""
        again = [self._open(fired) for fired in kept]
        self._end(target, self.open[target])
        self.sequences[target] = epoch, sequence
        return [self.fire(target, one.entries) for one in again]

    def _end(self, target: Target, ended: Sequence[Open]) -> None:
        """They are not on their way any more; what has waited for that, waits for its time again."""
        self.near.drop(entry.number for one in ended for entry in one.entries)
        self.open[target] = [one for one in self.open[target] if one not in ended]
        if not self.open[target]:
            del self.open[target]
        self.release(target)

    def release(self, target: Target) -> None:
        """What was held back waits for its time again: no more of it than one round takes."""
        held, size = self._held.pop(target, array("q")), DELAY_ROUND_MESSAGES_MAX * FIELDS
        if len(held) > size:
            self._held[target] = held[size:]
        self.give_back(_listed(held[:size]))


def entry_moved(entry: Entry, moved: Mapping[int, tuple[int, int]]) -> Entry:
    """The entry, where it is now."""
    place = moved.get(entry.number)
    return entry if place is None else entry._replace(offset=place[1])


def _listed(entries: "array[int]") -> list[Entry]:
    return [Entry(*entries[at : at + FIELDS]) for at in range(0, len(entries), FIELDS)]
