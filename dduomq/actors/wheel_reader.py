"""Reads parked messages back from a wheel's log, for those that are due and not in memory.

Part of the wheel's actor, not a task. Always true: what it gives are messages, by their numbers.
"""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from dduomq.actors.actor import Mailbox
from dduomq.actors.record_reader import RecordReader
from dduomq.delay import records
from dduomq.delay.records import Parked
from dduomq.delay.timeline import Entry
from dduomq.errors import DduomqError
from dduomq.wire.records import StoredRecord

Found: TypeAlias = dict[int, Parked]


class WheelReader(RecordReader[Parked]):
    """`on_damage(offset, error)`: a message can't be read any more."""

    __slots__ = ("_log",)

    def __init__(
        self, mailbox: Mailbox, partition: Mailbox, disk: Mailbox, on_damage: Callable[[int, DduomqError], None]
    ) -> None:
        super().__init__(mailbox, disk, _parked, on_damage)
        self._log = partition

    def read_entries(
        self,
        entries: Iterable[Entry],
        bytes_max: int,
        then: Callable[[Found], None],
        on_reset: Callable[[DduomqError], None] | None = None,
    ) -> None:
        """`then` gets the messages by their number; for the rest see `read`."""
        offsets = [entry.offset for entry in entries]
        self.read(
            self._log, offsets, bytes_max, lambda found: then({one.number: one for one in found.values()}), on_reset
        )  # fmt: skip


def _parked(record: StoredRecord) -> Parked | None:
    parked = records.decode(record)
    return parked if isinstance(parked, Parked) else None
