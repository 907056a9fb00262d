"""A wheel from its log: what waits, and which batches may not have arrived.

A pure machine. Always true: of a message that was moved the last place counts; one that was fired or cancelled
anywhere in the log does not wait; the last batch of a target, if it has no `delivered`, is open, and is sent again as
it was.
"""

from array import array
from collections.abc import Iterable

from dduomq.delay.handover import origin_of
from dduomq.delay.records import Cancelled, Delivered, Fired, Handed, Pair, Parked, Position, Record, Target
from dduomq.delay.timeline import FIELDS, Entry
from dduomq.delay.wheel import Open, Wheel
from dduomq.wire.batch import SEQUENCE_MAX


class Replay:
    """`apply` each record of the log, in order; then `finish`."""

    __slots__ = ("_dead", "_entries", "_moved", "_open", "_recurring", "_wheel", "lost")

    def __init__(self, now_ms: int) -> None:
        self._wheel = Wheel(now_ms)
        self._entries = array("q")
        self.lost: list[Pair] = []
        self._dead: set[int] = set()
        self._moved: dict[int, int] = {}
        self._open: dict[Target, Fired] = {}  # the last batch of each target: those before have arrived
        self._recurring: dict[int, Parked] = {}  # of schedules, by number

    def apply(self, record: Record) -> None:
        if isinstance(record, Parked):
            self._entries.extend((*record.pair, record.offset, self._wheel.index(record.target)))
            self._wheel.weigh(record)
            if record.offset == record.number:
                self._wheel.recent.add(record)
            if record.is_handed_over:
                self._wheel.handed_over(record.origin)
            if record.schedule:
                self._recurring[record.number] = record
            if record.offset != record.number:
                self._moved[record.number] = record.offset
        elif isinstance(record, Fired):
            self._end(record.pairs)
            self._open[record.target] = record
            next_sequence = (record.sequence + len(record.pairs)) & SEQUENCE_MAX
            self._wheel.sequences[record.target] = record.epoch, next_sequence
        elif isinstance(record, Delivered):
            arrived = set(record.fired)
            for target in [target for target, fired in self._open.items() if fired.offset in arrived]:
                del self._open[target]
        elif isinstance(record, Position):
            self._wheel.sequences[record.target] = record.epoch, record.sequence
        elif isinstance(record, Handed):
            self._wheel.handed_over(origin_of(record.owner, record.number))
        else:
            assert isinstance(record, Cancelled)
            self._end(record.pairs)
            if record.target is not None:
                self._wheel.recent.forget(record.target, record.origin)

    def _end(self, pairs: Iterable[Pair]) -> None:
        for _, number in pairs:
            self._dead.add(number)
            self._recurring.pop(number, None)

    def finish(self) -> Wheel:
        """The wheel. `lost` has the messages of open batches that are not in the log any more: it was damaged."""
        wanted: dict[Pair, Entry | None] = {pair: None for fired in self._open.values() for pair in fired.pairs}
        flat, dead, moved = self._entries, self._dead, self._moved
        for at in range(0, len(flat), FIELDS):
            entry = Entry(*flat[at : at + FIELDS])
            if moved and moved.get(entry.number, entry.offset) != entry.offset:
                continue
            if entry.number not in dead:
                self._wheel.timeline.add(entry)
            elif entry[:2] in wanted:
                wanted[entry[:2]] = entry
        for message in self._recurring.values():
            self._wheel.scheduled_next(message)
        for fired in self._open.values():
            found = [held for pair in fired.pairs if (held := wanted[pair]) is not None]
            if len(found) == len(fired.pairs):
                self._wheel.open[fired.target] = Open(fired, tuple(found))
            else:  # it can't be sent as it was: what is left of it goes out anew
                self.lost += [pair for pair in fired.pairs if wanted[pair] is None]
                self._wheel.give_back(found)
        return self._wheel
