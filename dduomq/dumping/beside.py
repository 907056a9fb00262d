"""The small files beside a `.log`: indexes, producer snapshots, checkpoints, as rows of named values.

Always true: trailing zeros of an index that Kafka has preallocated are no entries.
"""

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from dduomq.dumping.show import time_text
from dduomq.dumping.targets import Kind, Target
from dduomq.errors import CorruptMessage
from dduomq.log import epochs, index, producers, time_index
from dduomq.log.plans import decode_number

_TXN = struct.Struct(">hqqqq")
Row = dict[str, object]


def index_entries(path: Path) -> list[tuple[int, int]]:
    """(relative offset, position) of each entry."""
    return [entry for at, entry in enumerate(index.decode(path.read_bytes())) if at == 0 or entry != (0, 0)]


def time_index_entries(path: Path) -> list[tuple[int, int]]:
    """(timestamp, relative offset) of each entry."""
    return [entry for at, entry in enumerate(time_index.decode(path.read_bytes())) if at == 0 or entry != (0, 0)]


def rows(target: Target) -> Iterator[Row]:
    """What a file other than a `.log` holds. Raises `CorruptMessage` when it can't be read."""
    match target.kind:
        case Kind.INDEX:
            for relative, position in index_entries(target.path):
                yield {"type": "index", "offset": target.base_offset + relative, "position": position}
        case Kind.TIME_INDEX:
            for timestamp, relative in time_index_entries(target.path):
                yield {"type": "timeindex", "timestamp_ms": timestamp, "offset": target.base_offset + relative}
        case Kind.SNAPSHOT:
            yield from _producers(target.path.read_bytes())
        case Kind.TXN_INDEX:
            for version, producer_id, first, last, stable in _whole_txns(target.path.read_bytes()):
                yield {
                    "type": "aborted", "version": version, "producer_id": producer_id,
                    "first_offset": first, "last_offset": last, "last_stable_offset": stable,
                }  # fmt: skip
        case _:
            text = target.path.read_text(encoding="utf-8", errors="replace")
            for line in text.splitlines():
                yield {"type": "line", "text": line}


def wrong_checkpoint(path: Path) -> str | None:
    """What is wrong with one of the small text files, None if all is well."""
    data = path.read_bytes()
    if path.name == epochs.NAME:
        cache = epochs.decode(data)
        rise = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(cache.entries))
        is_right = cache.encode().split() == data.split() and rise
        return None if is_right else "not a version, a count, and epochs with offsets that rise"
    if path.name == "partition.metadata":
        head = b"version: 0\ntopic_id: "  # a crash may have cut it short
        return None if head.startswith(data[: len(head)]) else "not a version and a topic_id"
    return "not a version and an offset" if decode_number(data) is None else None


def _producers(data: bytes) -> Iterator[Row]:
    for producer_id, state in sorted(producers.decode(data).states.items()):
        last = state.batches[-1] if state.batches else None
        yield {
            "type": "producer",
            "producer_id": producer_id,
            "producer_epoch": state.epoch,
            "last_sequence": last.last_sequence if last else -1,
            "last_offset": last.last_offset if last else -1,
            "timestamp_ms": state.seen_ms,
            "transaction_first_offset": state.first_offset,
        }


def _whole_txns(data: bytes) -> Iterator[tuple[int, ...]]:
    if len(data) % _TXN.size:
        raise CorruptMessage(f"a transaction index has {_TXN.size} bytes an entry, {len(data)} are here")
    return _TXN.iter_unpack(data)


def row_text(row: Row) -> str:
    """`offset 41, position 4130`"""
    if row["type"] == "line":
        return str(row["text"])
    parts = []
    for name, value in row.items():
        if name == "timestamp_ms" and isinstance(value, int):
            parts.append(f"time {time_text(value)} ({value})")
        elif name != "type":
            parts.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts)
