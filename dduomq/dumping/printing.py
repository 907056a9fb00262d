"""Printing: the batches and records of logs, the rows of the files beside them.

Always true: output is lines, text or JSON, written to one stream; trouble in a log is printed where it lies
and printing goes on behind it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import attrs

from dduomq.dumping.beside import index_entries, row_text, rows
from dduomq.dumping.bounds import Bounds
from dduomq.dumping.scan import Batch, LogFile, Tail, scan
from dduomq.dumping.show import (
    batch_json,
    batch_text,
    bytes_text,
    record_json,
    record_text,
    trouble_json,
    trouble_text,
)
from dduomq.dumping.targets import Kind, Target
from dduomq.errors import CorruptMessage
from dduomq.wire.batch import BatchHeader
from dduomq.wire.records import StoredRecord, decode


@attrs.frozen(kw_only=True)
class Style:
    """What to show and how. `records_max` None: all. `cut` 0: values in full."""

    json: bool = False
    batches: bool = True
    records: bool = True
    values: bool = True
    values_only: bool = False
    cut: int = 0
    records_max: int | None = None


class Printer:
    """Prints targets one after another; `damage` tells afterwards where the first thing was that is not sound."""

    def __init__(self, out: TextIO, bounds: Bounds, style: Style) -> None:
        self._out = out
        self._bounds = bounds
        self._style = style
        self._left = style.records_max
        self._path = Path()
        self.damage: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether as many records as wanted were printed."""
        return self._left is not None and self._left <= 0

    def show(self, target: Target, *, title: bool) -> None:
        """Print one file, under its name where there are several."""
        self._path = target.path
        if title and not self._style.json and not self._style.values_only:
            self._line(f"# {target.path}")
        if target.kind is Kind.LOG:
            self._log(target)
            return
        try:
            for row in rows(target):
                self._row(row, row_text(row))
        except CorruptMessage as error:
            self._broken(0, error.message)

    def _log(self, target: Target) -> None:
        with LogFile(target.path) as log:
            start = start_position(target, self._bounds)
            for found in scan(log, start, self._is_read):
                if self.is_done or (isinstance(found, Batch) and self._bounds.is_past(found.header)):
                    return
                if isinstance(found, Batch):
                    self._batch(found)
                    continue
                if not isinstance(found, Tail):
                    self._note_damage(found.position)
                if not self._style.values_only:
                    self._row(trouble_json(found), trouble_text(found))

    def _is_read(self, header: BatchHeader) -> bool:
        return self._bounds.may_hold(header)

    def _batch(self, batch: Batch) -> None:
        if not self._bounds.may_hold(batch.header):
            return
        if not batch.crc_is_right:
            self._note_damage(batch.position)
        records = self._records(batch)
        if not self._style.records:
            if self._bounds.is_open or self._has_any(batch):
                self._batch_line(batch)
            return
        shown = False
        for record in records:
            if self.is_done:
                return
            if not shown:
                self._batch_line(batch)
                shown = True
            self._record(record, control=batch.header.is_control)
        if not shown and not batch.crc_is_right:
            self._batch_line(batch)

    def _has_any(self, batch: Batch) -> bool:
        if self._bounds.start.time_ms is None and self._bounds.stop.time_ms is None:
            return True
        return next(self._records(batch), None) is not None

    def _records(self, batch: Batch) -> Iterator[StoredRecord]:
        """The batch's records inside the bounds; none where the CRC says they can't be trusted."""
        if not batch.crc_is_right:
            return
        try:
            found = decode(batch.data)
        except CorruptMessage as error:
            self._broken(batch.position, error.message)
            return
        for record in found:
            if self._bounds.holds(record.offset, record.timestamp_ms):
                yield record

    def _batch_line(self, batch: Batch) -> None:
        if self._style.batches and not self._style.values_only:
            self._row(batch_json(batch), batch_text(batch))

    def _record(self, record: StoredRecord, *, control: bool) -> None:
        style = self._style
        if style.values_only and control:
            return
        if style.values_only:
            self._line(bytes_text(record.value))
        elif style.json:
            self._row(record_json(record, control=control, values=style.values), "")
        else:
            self._line(record_text(record, control=control, values=style.values, size_max=style.cut))
        if self._left is not None:
            self._left -= 1

    def _broken(self, position: int, why: str) -> None:
        """What can't be read although its CRC is right, or what has none."""
        self._note_damage(position)
        self._row({"type": "damage", "position": position, "why": why}, f"DAMAGE at {position}: {why}")

    def _note_damage(self, position: int) -> None:
        self.damage = self.damage or f"{self._path} at byte {position}"

    def _row(self, row: dict[str, object], text: str) -> None:
        """One line, as people or programs want it: a program can tell each line's file."""
        if self._style.json:
            text = json.dumps({"file": str(self._path), **row}, ensure_ascii=False)
        self._line(text)

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")


def start_position(target: Target, bounds: Bounds) -> int:
    """Where to begin to read for `--from` an offset: found in the index, if there is a sound one."""
    if bounds.start.offset is None or bounds.start.offset <= target.base_offset:
        return 0
    try:
        entries = index_entries(target.path.with_suffix(Kind.INDEX.value))
    except FileNotFoundError:
        return 0
    relative = bounds.start.offset - target.base_offset
    best = max((position for last, position in entries if last <= relative), default=0)
    return best if _is_batch(target.path, best, bounds.start.offset) else 0


def _is_batch(path: Path, position: int, offset: int) -> bool:
    """Whether a batch that is not behind `offset` begins at `position`: an index is only a hint."""
    with LogFile(path) as log:
        found = next(scan(log, position), None)
    return isinstance(found, Batch) and found.crc_is_right and found.header.base_offset <= offset
