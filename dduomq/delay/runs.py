"""What a batch of a wheel's log says, for a replay: parked messages by the hundred, not one by one.

Most of a long log are parked messages for a few targets. Of what they carry, a replay wants to know no more than the
size. Always true: it is what `records.decode` says of each record; between two records of another kind, messages stand
in order of their targets.
"""

import struct
from collections.abc import Iterable
from typing import TypeAlias

import attrs

from dduomq.delay.handover import Origin
from dduomq.delay.records import NEW, PARKED_FIELDS, PARKED_HEAD, Parked, Record, Target, decode
from dduomq.ports import Buffer
from dduomq.wire.records import StoredRecord, iterate

_TIMES = struct.Struct(">qq")  # of a parked message's key: due, number
_ORIGIN = struct.Struct(">qhi")
_TIMES_AT = len(PARKED_HEAD)
_ORIGIN_AT = _TIMES_AT + _TIMES.size
_TARGET_AT = _ORIGIN_AT + _ORIGIN.size
_NAME_AT = _TIMES_AT + PARKED_FIELDS.size


@attrs.define
class Run:
    """Parked messages of one target, none of which recurs. `size_bytes`: of their keys and values.

    `is_moved`: they were parked before, and lie here since the log was cleaned.
    """

    target: Target
    is_moved: bool
    dues: list[int] = attrs.field(factory=list)
    numbers: list[int] = attrs.field(factory=list)
    offsets: list[int] = attrs.field(factory=list)
    origins: list[Origin] = attrs.field(factory=list)  # of each stretch that has one and the same,
    starts: list[int] = attrs.field(factory=list)  # and where that begins
    size_bytes: int = 0


Said: TypeAlias = Record | Run


def run_of(parked: Parked) -> Run:
    """One message as a run."""
    return Run(
        parked.target, parked.number != parked.offset, [parked.due_ms], [parked.number], [parked.offset],
        [parked.origin], [0], len(parked.key or b"") + len(parked.value or b""),
    )  # fmt: skip


def read(batch: Buffer) -> list[Said]:
    """Raises `CorruptMessage`, and `InvariantBroken` for what no release up to this one has written."""
    return said(iterate(batch))


def said(stored: Iterable[StoredRecord]) -> list[Said]:
    """The same of records one after another."""
    found: list[Said] = []
    runs: dict[tuple[bytes, bool], Run] = {}  # those that may go on, by what the keys of their messages share
    last_origin, last_run = b"", None
    for record in stored:
        key, offset, run = record.key or b"", record.offset, None
        due_ms, number = 0, NEW
        if key.startswith(PARKED_HEAD) and len(key) >= _NAME_AT:
            due_ms, number = _TIMES.unpack_from(key, _TIMES_AT)
            run = runs.get((key[_TARGET_AT:_NAME_AT], number != NEW))
        if run is None:
            one = decode(record)
            if not isinstance(one, Parked) or one.schedule:
                found.append(one)
                runs.clear()
                continue
            run = runs[key[_TARGET_AT:_NAME_AT], number != NEW] = Run(one.target, number != NEW)
            found.append(run)
        origin = key[_ORIGIN_AT:_TARGET_AT]
        if origin != last_origin or run is not last_run:
            run.origins.append(_ORIGIN.unpack(origin))
            run.starts.append(len(run.dues))
            last_origin, last_run = origin, run
        run.dues.append(due_ms)
        run.numbers.append(offset if number == NEW else number)
        run.offsets.append(offset)
        run.size_bytes += len(key) + len(record.value or b"")
    for held in found:
        if isinstance(held, Run):
            held.size_bytes -= len(held.dues) * (_NAME_AT + len(held.target.topic.encode()))
    return found
