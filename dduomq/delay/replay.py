"""A wheel from its log: what waits, and which batches may not have arrived.

A pure machine. Always true: of a message that was moved the last place counts; one that was fired or cancelled
anywhere in the log does not wait; the last `OPEN_MAX` batches of a target, if they have no `delivered`, are open, and
are sent again as they were.
"""

from array import array
from collections.abc import Iterable, Sequence
from itertools import chain, compress, repeat
from typing import TypeAlias

from dduomq.delay.handover import is_handed_over, origin_of
from dduomq.delay.records import NO_ORIGIN, Cancelled, Delivered, Fired, Handed, Pair, Parked, Position, Target
from dduomq.delay.runs import Run, Said, run_of
from dduomq.delay.timeline import FIELDS, NUMBER, OFFSET, Entry
from dduomq.delay.wheel import OPEN_MAX, Open, Wheel
from dduomq.wire.batch import SEQUENCE_MAX

Columns: TypeAlias = "tuple[array[int], ...]"  # of entries, one for each field


class Replay:
    """`apply` what each record of the log says, in order; then `finish`."""

    __slots__ = ("_columns", "_dead", "_moved", "_open", "_recurring", "_wheel", "lost")

    def __init__(self, now_ms: int) -> None:
        self._wheel = Wheel(now_ms)
        self._columns: Columns = tuple(array("q") for _ in range(FIELDS))
        self.lost: list[Pair] = []
        self._dead: set[int] = set()
        self._moved: dict[int, int] = {}
        self._open: dict[Target, list[Fired]] = {}  # the last batches of each target: those before have arrived
        self._recurring: dict[int, Parked] = {}  # of schedules, by number

    def apply(self, record: Said) -> None:
        if isinstance(record, Run):
            self._parked(record)
        elif isinstance(record, Parked):
            self._parked(run_of(record))
            if record.schedule:
                self._recurring[record.number] = record
        elif isinstance(record, Fired):
            self._end(record.pairs)
            before = self._open.get(record.target, ())
            open_ = [one for one in before if one.epoch == record.epoch and not one.is_same(record)]
            self._open[record.target] = [*open_, record][-OPEN_MAX:]
            next_sequence = (record.sequence + len(record.pairs)) & SEQUENCE_MAX
            self._wheel.sequences[record.target] = record.epoch, next_sequence
        elif isinstance(record, Delivered):
            arrived = set(record.fired)
            for target, open_ in self._open.items():
                self._open[target] = [one for one in open_ if one.offset not in arrived]
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

    def _parked(self, run: Run) -> None:
        target, count = repeat(self._wheel.index(run.target), len(run.dues)), len(run.dues)
        for column, more in zip(self._columns, (run.dues, run.numbers, run.offsets, target), strict=True):
            column.extend(more)
        self._wheel.weigh(run.size_bytes, count)
        if run.is_moved:
            self._moved.update(zip(run.numbers, run.offsets, strict=True))
        for origin, first, end in zip(run.origins, run.starts, [*run.starts[1:], count], strict=True):
            if is_handed_over(origin):
                self._wheel.handed_over(origin)
            elif origin != NO_ORIGIN and not run.is_moved:
                self._wheel.recent.add(
                    run.target, origin, zip(run.dues[first:end], run.numbers[first:end], strict=True)
                )

    def finish(self) -> Wheel:
        """The wheel. `lost` has the messages of open batches that are not in the log any more: it was damaged."""
        columns, moved, dead = self._columns, self._moved, self._dead
        if moved:
            places = zip(columns[NUMBER], columns[OFFSET], strict=True)
            columns = _chosen(columns, [moved.get(number, offset) == offset for number, offset in places])
        wanted = self._wanted(columns)
        if dead:
            columns = _chosen(columns, [number not in dead for number in columns[NUMBER]])
        self._wheel.timeline.fill(zip(*columns, strict=True))
        for message in self._recurring.values():
            self._wheel.scheduled_next(message, message.pair)
        for fired in chain.from_iterable(self._open.values()):
            found = [wanted[pair] for pair in fired.pairs if pair in wanted]
            if len(found) == len(fired.pairs):
                self._wheel.open.setdefault(fired.target, []).append(Open(fired, tuple(found)))
            else:  # it can't be sent as it was: what is left of it goes out anew
                self.lost += [pair for pair in fired.pairs if pair not in wanted]
                self._wheel.give_back(found)
        return self._wheel

    def _wanted(self, columns: Columns) -> dict[Pair, Entry]:
        """The entries of the open batches."""
        numbers = {number for fired in chain.from_iterable(self._open.values()) for _, number in fired.pairs}
        if not numbers:
            return {}
        found = _chosen(columns, [number in numbers for number in columns[NUMBER]])
        return {(entry.due_ms, entry.number): entry for entry in map(Entry, *found)}


def _chosen(columns: Columns, which: Sequence[bool]) -> Columns:
    return tuple(array("q", compress(column, which)) for column in columns)
