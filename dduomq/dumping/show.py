"""One line of text, or one JSON object, for each thing in a log's files.

Always true: a JSON line is whole by itself and has a `type`; bytes that are text stand as text, others as hex
(text) or base64 under a name that ends in `_base64` (JSON).
"""

import base64
import json
from datetime import UTC, datetime

import attrs

from dduomq.dumping.scan import Batch, Damage, Tail
from dduomq.wire.compress import Compression
from dduomq.wire.records import StoredRecord

_CONTROL = {
    0: "abort", 1: "commit", 2: "leader change", 3: "snapshot header", 4: "snapshot footer", 5: "raft version",
    6: "raft voters",
}  # fmt: skip


def time_text(timestamp_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds; the bare number if it is no time."""
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return str(timestamp_ms)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{timestamp_ms % 1000:03d}Z" if timestamp_ms >= 0 else "-"


def compression_text(number: int) -> str:
    try:
        return Compression(number).name.lower()
    except ValueError:
        return f"compression {number}"


def bytes_text(data: bytes | None, size_max: int = 0) -> str:
    """`data` on one line, cut after `size_max` characters (0: never)."""
    if data is None:
        return "null"
    try:
        text = data.decode()
        shown = text if text.isprintable() else json.dumps(text, ensure_ascii=False)[1:-1]
    except UnicodeDecodeError:
        shown = "0x" + data[: size_max or None].hex()
    if size_max and len(shown) > size_max:
        return f"{shown[:size_max]}… ({len(data)} bytes)"
    return shown


def bytes_json(name: str, data: bytes | None) -> dict[str, str | None]:
    if data is None:
        return {name: None}
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def batch_text(batch: Batch) -> str:
    header = batch.header
    parts = [
        f"batch at {batch.position}: offsets {header.base_offset}..{header.last_offset}",
        f"{header.count} records",
        f"{header.size} bytes",
        time_text(header.max_timestamp) + (" (append time)" if header.is_log_append_time else ""),
        compression_text(header.compression),
        f"epoch {header.leader_epoch}",
    ]
    if header.producer_id >= 0:
        sequences = f"{header.base_sequence}..{header.last_sequence}"
        parts.append(f"producer {header.producer_id}/{header.producer_epoch} sequences {sequences}")
    parts += ["transactional"] * header.is_transactional + ["control"] * header.is_control
    parts.append(f"crc {header.crc:08x}" + ("" if batch.crc_is_right else " WRONG"))
    return ", ".join(parts)


def batch_json(batch: Batch) -> dict[str, object]:
    header = batch.header
    return {
        "type": "batch",
        "position": batch.position,
        **attrs.asdict(header),
        "last_offset": header.last_offset,
        "compression": compression_text(header.compression),
        "timestamp_type": "LogAppendTime" if header.is_log_append_time else "CreateTime",
        "transactional": header.is_transactional,
        "control": header.is_control,
        "crc_is_right": batch.crc_is_right,
    }


def record_text(record: StoredRecord, *, control: bool, values: bool, size_max: int) -> str:
    parts = [f"  {record.offset}", time_text(record.timestamp_ms)]
    if control:
        return " ".join([*parts, "control:", control_kind(record)])
    if record.key is not None:
        parts.append(f"key={bytes_text(record.key, size_max)}")
    parts += [f"{name}={bytes_text(content, size_max)}" for name, content in record.headers]
    if values:
        parts.append(bytes_text(record.value, size_max))
    return " ".join(parts)


def record_json(record: StoredRecord, *, control: bool, values: bool) -> dict[str, object]:
    shown: dict[str, object] = {"type": "record", "offset": record.offset, "timestamp_ms": record.timestamp_ms}
    if control:
        return shown | {"control": control_kind(record)}
    shown |= bytes_json("key", record.key)
    shown["headers"] = [{"name": name, **bytes_json("value", content)} for name, content in record.headers]
    return shown | bytes_json("value", record.value) if values else shown


def control_kind(record: StoredRecord) -> str:
    """What a control record says: `commit`, `abort`, or its number."""
    if record.key is None or len(record.key) < 4:
        return "unreadable"
    number = int.from_bytes(record.key[2:4], "big")
    return _CONTROL.get(number, f"type {number}")


def trouble_text(found: Damage | Tail) -> str:
    if isinstance(found, Tail):
        return f"incomplete tail at {found.position}: {found.size} bytes ({found.why})"
    return f"DAMAGE at {found.position}: {found.size} bytes ({found.why})"


def trouble_json(found: Damage | Tail) -> dict[str, object]:
    kind = "tail" if isinstance(found, Tail) else "damage"
    return {"type": kind, "position": found.position, "size": found.size, "why": found.why}
