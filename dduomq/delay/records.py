"""What a wheel writes into its log: records of `__delay`.

Always true: a record begins with (type, version); one that this release does not know stops the wheel with a clear
line, and is never skipped.

parked     key: due, number, target, origin, schedule, key of the message · value and headers: the message's own
fired      key: the batch that delivers: target, producer epoch, sequence, reason · value: (due, number) of each message
delivered  value: offsets of the `fired` records whose batch is in its target
cancelled  value: (due, number) of each message
position   key: target, epoch, next sequence: where `fired` records have been cleaned away
"""

import struct
from collections.abc import Iterable
from typing import TypeAlias

import attrs

from dduomq.errors import InvariantBroken
from dduomq.wire.records import Headers, StoredRecord

PARKED, FIRED, DELIVERED, CANCELLED, POSITION = 1, 2, 3, 4, 5
VERSION = 1
REASON_CHARACTERS_MAX = 1_000
NEW = -1  # a message's number is its record's offset, until it is moved
NO_ORIGIN = (-1, -1, -1)
_HEAD = struct.Struct(">BB")
_PARKED = struct.Struct(">qqqhiI16sBH?")
_FIRED = struct.Struct(">hiI16sBH")
Pair: TypeAlias = tuple[int, int]  # (due in ms, number)


@attrs.frozen(order=True)
class Target:
    """A partition, by its topic's id: one that is made again under the name is another."""

    topic: str
    topic_id: str
    partition: int


@attrs.frozen
class Parked:
    """A message that waits. `origin`: producer id, epoch, sequence of the batch it came in: it is parked once."""

    due_ms: int
    number: int
    offset: int
    target: Target
    origin: tuple[int, int, int]
    key: bytes | None
    value: bytes | None
    headers: Headers
    schedule: bytes = b""  # of one that recurs, as `Schedule.encode` writes it

    @property
    def pair(self) -> Pair:
        return self.due_ms, self.number


@attrs.frozen
class Fired:
    """One batch on its way: `epoch` and `sequence` are those of the wheel as a producer of `target`.

    `reason`: why it goes there and not where it should have gone; empty for what is delivered as wished.
    """

    offset: int
    target: Target
    epoch: int
    sequence: int
    reason: str
    pairs: tuple[Pair, ...]


@attrs.frozen
class Delivered:
    fired: tuple[int, ...]


@attrs.frozen
class Cancelled:
    pairs: tuple[Pair, ...]


@attrs.frozen
class Position:
    """Where the wheel is as a producer of `target`."""

    target: Target
    epoch: int
    sequence: int


Record: TypeAlias = Parked | Fired | Delivered | Cancelled | Position
Encoded: TypeAlias = tuple[bytes, bytes | None, Headers]


def encode_parked(parked: Parked) -> Encoded:
    target = parked.target
    name = target.topic.encode()
    head = _PARKED.pack(
        parked.due_ms, parked.number, *parked.origin, target.partition, bytes.fromhex(target.topic_id), len(name),
        len(parked.schedule), parked.key is not None,
    )  # fmt: skip
    key = b"".join((_HEAD.pack(PARKED, VERSION), head, name, parked.schedule, parked.key or b""))
    return key, parked.value, list(parked.headers)


def encode_fired(fired: Fired) -> Encoded:
    target, reason = fired.target, fired.reason[:REASON_CHARACTERS_MAX].encode()
    name = target.topic.encode()
    head = _FIRED.pack(
        fired.epoch, fired.sequence, target.partition, bytes.fromhex(target.topic_id), len(name), len(reason)
    )
    return _HEAD.pack(FIRED, VERSION) + head + name + reason, _pack(n for pair in fired.pairs for n in pair), []


def encode_position(one: Position) -> Encoded:
    name = one.target.topic.encode()
    head = _FIRED.pack(one.epoch, one.sequence, one.target.partition, bytes.fromhex(one.target.topic_id), len(name), 0)
    return _HEAD.pack(POSITION, VERSION) + head + name, b"", []


def encode_delivered(fired: Iterable[int]) -> Encoded:
    return _HEAD.pack(DELIVERED, VERSION), _pack(fired), []


def encode_cancelled(pairs: Iterable[Pair]) -> Encoded:
    return _HEAD.pack(CANCELLED, VERSION), _pack(n for pair in pairs for n in pair), []


def decode(record: StoredRecord) -> Record:
    """Raises `InvariantBroken` for what no release up to this one has written."""
    key = record.key or b""
    try:
        kind, version = _HEAD.unpack_from(key)
        if version != VERSION:
            raise ValueError(f"version {version}")
        if kind == PARKED:
            return _parked(record, key)
        if kind in {FIRED, POSITION}:
            fired = _fired(record, key)
            return fired if kind == FIRED else Position(fired.target, fired.epoch, fired.sequence)
        numbers = _unpack(record.value)
        if kind == DELIVERED:
            return Delivered(tuple(numbers))
        if kind == CANCELLED:
            return Cancelled(_pairs(numbers))
        raise ValueError(f"type {kind}")
    except (struct.error, ValueError) as error:
        raise InvariantBroken(
            f"the record at offset {record.offset} of the delayed messages' log can't be read ({error}); "
            "was it written by a newer release?"
        ) from error


def _parked(record: StoredRecord, key: bytes) -> Parked:
    at = _HEAD.size
    due_ms, number, pid, epoch, sequence, partition, topic_id, length, more, has_key = _PARKED.unpack_from(key, at)
    at += _PARKED.size
    target = Target(key[at : at + length].decode(), topic_id.hex(), partition)
    at += length
    return Parked(
        due_ms, record.offset if number == NEW else number, record.offset, target, (pid, epoch, sequence),
        key[at + more :] if has_key else None, record.value, record.headers, key[at : at + more],
    )  # fmt: skip


def _fired(record: StoredRecord, key: bytes) -> Fired:
    at = _HEAD.size
    epoch, sequence, partition, topic_id, name_length, reason_length = _FIRED.unpack_from(key, at)
    at += _FIRED.size
    target = Target(key[at : at + name_length].decode(), topic_id.hex(), partition)
    reason = key[at + name_length : at + name_length + reason_length].decode()
    return Fired(record.offset, target, epoch, sequence, reason, _pairs(_unpack(record.value)))


def _pack(numbers: Iterable[int]) -> bytes:
    listed = list(numbers)
    return struct.pack(f">{len(listed)}q", *listed)


def _unpack(value: bytes | None) -> list[int]:
    return list(struct.unpack(f">{len(value or b'') // 8}q", value or b""))


def _pairs(numbers: list[int]) -> tuple[Pair, ...]:
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
