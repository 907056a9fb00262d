"""What a wheel writes into its log: records of `__delay`.

Always true: a record begins with (type, version); one that this release does not know stops the wheel with a clear
line, and is never skipped.

parked     key: due, number, target, origin, schedule, key of the message · value and headers: the message's own
fired      key: the batch that delivers: target, producer epoch, sequence · value: (due, number) of each message
delivered  value: offsets of the `fired` records whose batch is in its target
cancelled  key: the batch that is taken back, if it is one: target, origin · value: (due, number) of each message
position   key: target, epoch, next sequence: where `fired` records have been cleaned away
handed     key: owner, number: the highest that was handed over, where such messages have been cleaned away
"""

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

import attrs

from dduomq.delay.handover import is_handed_over
from dduomq.errors import InvariantBroken
from dduomq.wire.records import Headers, StoredRecord

PARKED, FIRED, DELIVERED, CANCELLED, POSITION, HANDED = 1, 2, 3, 4, 5, 6
VERSION = 1
REASON_CHARACTERS_MAX = 1_000
NEW = -1  # a message's number is its record's offset, until it is moved
NO_ORIGIN = (-1, -1, -1)
_HEAD = struct.Struct(">BB")
PARKED_HEAD = _HEAD.pack(PARKED, VERSION)
PARKED_FIELDS = struct.Struct(">qqqhiI16sBH?")
_UNPARKED = struct.Struct(">qhiI16s")
_FIRED = struct.Struct(">hiI16s")
_HANDED = struct.Struct(">qq")
Pair: TypeAlias = tuple[int, int]  # (due in ms, number)


@attrs.frozen(order=True, cache_hash=True)
class Target:
    """A partition, by its topic's id: one that is made again under the name is another."""

    topic: str
    topic_id: str
    partition: int


@attrs.frozen
class Parked:
    """A message that waits. `origin`: producer id, epoch, sequence of the batch it came in: it is parked once.

    What is handed over (see `handover`) is delivered with its headers as they are.
    """

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

    def at(self, offset: int) -> "Parked":
        """The same, where it has been stored first."""
        return Parked(
            self.due_ms, offset, offset, self.target, self.origin, self.key, self.value, self.headers, self.schedule
        )

    @property
    def is_handed_over(self) -> bool:
        return is_handed_over(self.origin)


@attrs.frozen
class Fired:
    """One batch on its way: `epoch` and `sequence` are those of the wheel as a producer of `target`."""

    offset: int
    target: Target
    epoch: int
    sequence: int
    pairs: tuple[Pair, ...]

    def is_same(self, other: "Fired") -> bool:
        """Whether they mean one batch, wherever its record lies."""
        return (self.target, self.epoch, self.sequence) == (other.target, other.epoch, other.sequence)


@attrs.frozen
class Delivered:
    fired: tuple[int, ...]


@attrs.frozen
class Cancelled:
    """`origin`: of the batch that is taken back as if it had never come; `target`: where it was to go."""

    pairs: tuple[Pair, ...]
    target: Target | None = None
    origin: tuple[int, int, int] = NO_ORIGIN


@attrs.frozen
class Position:
    """Where the wheel is as a producer of `target`."""

    target: Target
    epoch: int
    sequence: int


@attrs.frozen
class Handed:
    """The highest number that this owner has handed over."""

    owner: int
    number: int


Record: TypeAlias = Parked | Fired | Delivered | Cancelled | Position | Handed
Encoded: TypeAlias = tuple[bytes, bytes | None, Headers]


def encode_parked(parked: Parked) -> Encoded:
    target = parked.target
    name = target.topic.encode()
    head = PARKED_FIELDS.pack(
        parked.due_ms, parked.number, *parked.origin, target.partition, bytes.fromhex(target.topic_id), len(name),
        len(parked.schedule), parked.key is not None,
    )  # fmt: skip
    key = b"".join((PARKED_HEAD, head, name, parked.schedule, parked.key or b""))
    return key, parked.value, list(parked.headers)


def encode_fired(fired: Fired) -> Encoded:
    key = _HEAD.pack(FIRED, VERSION) + _place(fired.target, fired.epoch, fired.sequence)
    return key, _pack(n for pair in fired.pairs for n in pair), []


def encode_position(one: Position) -> Encoded:
    return _HEAD.pack(POSITION, VERSION) + _place(one.target, one.epoch, one.sequence), b"", []


def encode_handed(one: Handed) -> Encoded:
    return _HEAD.pack(HANDED, VERSION) + _HANDED.pack(one.owner, one.number), b"", []


def _place(target: Target, epoch: int, sequence: int) -> bytes:
    head = _FIRED.pack(epoch, sequence, target.partition, bytes.fromhex(target.topic_id))
    return head + target.topic.encode()


def encode_delivered(fired: Iterable[int]) -> Encoded:
    return _HEAD.pack(DELIVERED, VERSION), _pack(fired), []


def encode_cancelled(
    pairs: Iterable[Pair], target: Target | None = None, origin: tuple[int, int, int] = NO_ORIGIN
) -> Encoded:  # fmt: skip
    key = _HEAD.pack(CANCELLED, VERSION)
    if target is not None:
        key += _UNPARKED.pack(*origin, target.partition, bytes.fromhex(target.topic_id)) + target.topic.encode()
    return key, _pack(n for pair in pairs for n in pair), []


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
        if kind == HANDED:
            return Handed(*_HANDED.unpack_from(key, _HEAD.size))
        numbers = _unpack(record.value)
        if kind == DELIVERED:
            return Delivered(tuple(numbers))
        if kind == CANCELLED:
            return _cancelled(_pairs(numbers), key[_HEAD.size :])
        raise ValueError(f"type {kind}")
    except (struct.error, ValueError) as error:
        raise InvariantBroken(
            f"the record at offset {record.offset} of the delayed messages' log can't be read ({error}); "
            "was it written by a newer release?"
        ) from error


@lru_cache(maxsize=4_096)
def _target(topic: bytes, topic_id: bytes, partition: int) -> Target:
    """One and the same for all its messages: a replay meets each a million times."""
    return Target(topic.decode(), topic_id.hex(), partition)


def _parked(record: StoredRecord, key: bytes) -> Parked:
    at = _HEAD.size
    due_ms, number, pid, epoch, sequence, partition, topic_id, length, more, has_key = PARKED_FIELDS.unpack_from(
        key, at
    )
    at += PARKED_FIELDS.size
    target = _target(key[at : at + length], topic_id, partition)
    at += length
    return Parked(
        due_ms, record.offset if number == NEW else number, record.offset, target, (pid, epoch, sequence),
        key[at + more :] if has_key else None, record.value, record.headers, key[at : at + more],
    )  # fmt: skip


def _fired(record: StoredRecord, key: bytes) -> Fired:
    epoch, sequence, partition, topic_id = _FIRED.unpack_from(key, _HEAD.size)
    target = Target(key[_HEAD.size + _FIRED.size :].decode(), topic_id.hex(), partition)
    return Fired(record.offset, target, epoch, sequence, _pairs(_unpack(record.value)))


def _cancelled(pairs: tuple[Pair, ...], batch: bytes) -> Cancelled:
    if not batch:
        return Cancelled(pairs)
    *origin, partition, topic_id = _UNPARKED.unpack_from(batch)
    target = Target(batch[_UNPARKED.size :].decode(), topic_id.hex(), partition)
    return Cancelled(pairs, target, (origin[0], origin[1], origin[2]))


def _pack(numbers: Iterable[int]) -> bytes:
    listed = list(numbers)
    return struct.pack(f">{len(listed)}q", *listed)


def _unpack(value: bytes | None) -> list[int]:
    return list(struct.unpack(f">{len(value or b'') // 8}q", value or b""))


def _pairs(numbers: list[int]) -> tuple[Pair, ...]:
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
