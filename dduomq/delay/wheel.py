"""One wheel: the messages that wait, which batch of them goes out next, and under which sequence.

A pure machine. A message is parked (its record is in the log), then fired: the record `fired` names the batch it goes
out in, and that batch carries the wheel's own producer id, epoch and sequence, so that sending it again after a crash
makes no second copy; then delivered. Always true: a message is in one place: it waits in the timeline, or is held back
because its target is busy, or is in one open batch, or is gone; a target has one open batch at a time; who is cancelled
was not in a batch, and never will be.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, repeat
from operator import attrgetter

import attrs

from dduomq.delay.handover import Origin, is_handed_over, number_of
from dduomq.delay.recent import Recent
from dduomq.delay.records import NO_ORIGIN, Fired, Pair, Parked, Target
from dduomq.delay.schedule import Schedule, decode
from dduomq.delay.timeline import FIELDS, NUMBER, OFFSET, Entry, Timeline
from dduomq.errors import InvalidRecord, TooManyDelayed
from dduomq.limits import DELAYED_PER_WHEEL_MAX
from dduomq.wire.batch import SEQUENCE_MAX

_TARGET_AND_ORIGIN = attrgetter("target", "origin")
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


class Wheel:
    """Times are wall-clock milliseconds. `count` is how many wait or are on their way."""

    __slots__ = (
        "_held", "_indexes", "_recurring", "_targets", "_weighed", "_weight", "handed", "open", "recent", "scheduled",
        "sequences", "timeline",
    )  # fmt: skip

    def __init__(self, now_ms: int) -> None:
        self.timeline = Timeline(now_ms)
        self.recent = Recent()
        self.handed: dict[int, int] = {}  # by owner, the highest number that it has handed over
        self.open: dict[Target, Open] = {}  # by where it goes
        self.sequences: dict[Target, tuple[int, int]] = {}  # (epoch, next sequence) of this wheel there
        self._weight = self._weighed = 0  # bytes of all that was ever parked, and how many
        self.scheduled: dict[str, Scheduled] = {}  # by name
        self._recurring: dict[int, str] = {}  # the number of a schedule's next message, and its name
        self._targets: list[Target] = []
        self._indexes: dict[Target, int] = {}
        self._held: dict[Target, array[int]] = {}  # due, but where they go is busy

    @property
    def count(self) -> int:
        held = sum(len(entries) for entries in self._held.values()) // FIELDS
        return len(self.timeline) + held + sum(len(one.entries) for one in self.open.values())

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

    def parked(self, messages: Sequence[Parked], first_offset: int) -> list[Pair]:
        """They are in the log from that offset on; their ids."""
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

        Raises `InvalidRecord`.
        """
        target, origin = messages[0].target, messages[0].origin
        if is_handed_over(origin):
            return None if self.not_handed(messages) else []
        found = self.recent.find(target, origin)
        if found is not None and len(found) != len(messages):
            raise InvalidRecord("another batch of this producer had the same sequence")
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
        return found

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
        found.update(entry.number for one in self.open.values() for entry in one.entries)
        return found.intersection(number for _, number in pairs)

    def move(self, moved: Mapping[int, tuple[int, int]]) -> None:
        """They lie elsewhere in the log now: by number, (due, the new offset)."""
        self.timeline.move(moved)
        for entries in self._held.values():
            for at in range(0, len(entries), FIELDS):
                if entries[at + NUMBER] in moved:
                    entries[at + OFFSET] = moved[entries[at + NUMBER]][1]
        for one in self.open.values():
            one.entries = tuple(entry_moved(entry, moved) for entry in one.entries)

    # --- firing -------------------------------------------------------------------------------------

    def take_due(self, now_ms: int, limit: int, way: Callable[[Target], Target]) -> dict[Target, list[Entry]]:
        """What is due, by where it goes (`way`); what goes where a batch is open already is held back."""
        found: dict[Target, list[Entry]] = {}
        for entry in self.timeline.pop(now_ms, limit):
            to = way(self.target(entry))
            if to in self.open:
                self._held.setdefault(to, array("q")).extend(entry)
            else:
                found.setdefault(to, []).append(entry)
        return found

    def give_back(self, entries: Iterable[Entry]) -> None:
        """They wait again."""
        for entry in entries:
            self.timeline.add(entry)

    def fire(self, to: Target, entries: Sequence[Entry]) -> Fired:
        """The next batch to that target. Its offset is not known before it is in the log: see `fired_at`."""
        epoch, sequence = self.sequences.get(to, (0, 0))
        self.sequences[to] = epoch, (sequence + len(entries)) & SEQUENCE_MAX
        fired = Fired(-1, to, epoch, sequence, tuple((entry.due_ms, entry.number) for entry in entries))
        self.open[to] = Open(fired, tuple(entries))
        return fired

    def fired_at(self, fired: Fired, offset: int) -> Fired:
        """It is in the log: only now may the batch be sent."""
        one = self.open[fired.target]
        one.fired = attrs.evolve(fired, offset=offset)
        return one.fired

    def delivered(self, fired: Fired) -> None:
        """The batch is in its target."""
        del self.open[fired.target]
        self._release(fired.target)

    def given_up(self, fired: Fired) -> None:
        """The batch has surely not been stored, and is not sent any more: its sequence is free again."""
        del self.open[fired.target]
        self.sequences[fired.target] = fired.epoch, fired.sequence
        self._release(fired.target)

    def begin_anew(self, fired: Fired) -> Fired:
        """The target has another idea of our sequence: the same batch as the first one of a new epoch."""
        entries = self.open.pop(fired.target).entries
        self.sequences[fired.target] = fired.epoch + 1, 0
        return self.fire(fired.target, entries)

    def _release(self, target: Target) -> None:
        self.give_back(_listed(self._held.pop(target, array("q"))))


def entry_moved(entry: Entry, moved: Mapping[int, tuple[int, int]]) -> Entry:
    """The entry, where it is now."""
    place = moved.get(entry.number)
    return entry if place is None else entry._replace(offset=place[1])


def _listed(entries: "array[int]") -> list[Entry]:
    return [Entry(*entries[at : at + FIELDS]) for at in range(0, len(entries), FIELDS)]
