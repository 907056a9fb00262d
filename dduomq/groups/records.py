"""What `__groups` holds: a record's key says what it is about, its value what is so from now on.

Keys and values are CBOR arrays. A null value ends what its key names. Always true: replaying the records in
their order gives the state that made them; a value written by one release is read by the next: each begins
with its version, unknown trailing fields are ignored.

    ["offset", group, topic id, partition]  ->  [1, offset, leader epoch, metadata, commit time ms]
    ["group", group]                        ->  [1, protocol type, generation, protocol, leader, members, time ms]
    a member                                 =  [id, instance id, client id, host, session ms, rebalance ms,
                                                 [[protocol, metadata], ...], assignment]
    ["consumers", group]                     ->  [1, epoch, target epoch, assignor, time ms]
    ["member", group, member id]             ->  [1, instance id, client id, host, zone, session ms, rebalance ms,
                                                 topics, pattern, assignor, protocols of a classic one or null]
    ["target", group, member id]             ->  [1, places]
    ["current", group, member id]            ->  [1, epoch, previous epoch, state, places, places to be given up]
    ["aside", group, topic id, partition, n] ->  [1, where to, due ms, since ms, error, reason, ranges, tries]
    ["marks", group, topic id, partition]    ->  [1, ranges of offsets that are set aside, all of them]
    ["moved", group, topic id, partition]    ->  [1, ranges of offsets: dead letters that were sent on or taken away]
    ["handed", "", lane]                     ->  [1, the last number that was handed over]
    places                                   =  [[topic id, [partition, ...]], ...]
    ["share", group]                         ->  [1, epoch, time ms, start, lock ms, deliveries]
    ["queue", group, topic id, partition]    ->  [1, end, spans]
    ["queued", group, topic id, partition]   ->  [1, spans]
    spans                                    =  [[first, last, state, deliveries, member id, ms, until ms], ...]

A `group` record says that the group's members share out by the classic protocol, a `consumers` record that the
broker does, a `share` record that they share partitions: the latest one counts. A null `group` ends the group,
whichever it was. A `queue` says all that is so of a queue, a `queued` what has changed since.
"""

from collections.abc import Iterable
from typing import Any, TypeAlias

import attrs
import cbor2

from dduomq.errors import CorruptMessage, UnsupportedVersion
from dduomq.groups.queue import SpanRecord
from dduomq.limits import QUEUE_DELIVERIES, QUEUE_LOCK_MS

VERSION = 1
OFFSET, GROUP = "offset", "group"
SHARE, QUEUE, QUEUED = "share", "queue", "queued"
CONSUMERS, MEMBER, TARGET, CURRENT = "consumers", "member", "target", "current"
ASIDE, MARKS, MOVED, HANDED = "aside", "marks", "moved", "handed"
PASSED_ON = -1
Place: TypeAlias = tuple[str, int]  # (topic id, partition)


@attrs.frozen(slots=True)
class Committed:
    """How far a group has come in one partition: the next record it will read."""

    offset: int
    leader_epoch: int
    metadata: str
    commit_ms: int


@attrs.frozen(slots=True)
class MemberRecord:
    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    session_ms: int
    rebalance_ms: int
    protocols: tuple[tuple[str, bytes], ...]
    assignment: bytes


@attrs.frozen(slots=True)
class GroupRecord:
    """A group whose members all know what they read; without members it is empty."""

    protocol_type: str
    generation: int
    protocol: str | None
    leader: str | None
    members: tuple[MemberRecord, ...]
    changed_ms: int


@attrs.frozen
class OffsetKey:
    group: str
    place: Place


@attrs.frozen
class GroupKey:
    group: str


@attrs.frozen
class ConsumersKey:
    group: str


@attrs.frozen
class MemberKey:
    """`kind`: MEMBER, TARGET or CURRENT."""

    group: str
    kind: str
    member_id: str


@attrs.frozen
class AsideKey:
    """Some records that were set aside; `number` is that of the first."""

    group: str
    place: Place
    number: int


@attrs.frozen
class MarksKey:
    """All that was set aside of a place: `kind` MARKS, by a group; MOVED, by operators, of its dead letters."""

    group: str
    place: Place
    kind: str = MARKS


@attrs.frozen
class HandedKey:
    """How far a coordinator has handed over what its groups have set aside, of one lane."""

    lane: int


@attrs.frozen(slots=True)
class AsideRecord:
    """Where the copies are to go, when they are due, since when, and why. `offsets` are ranges. `tries`: how often each
    was given out; 0: once more than it says itself, PASSED_ON: it has not been tried. `is_moved`: by an operator.
    """

    number: int
    to: str
    due_ms: int
    since_ms: int
    error: str
    reason: str
    offsets: tuple[int, ...]
    tries: int = 0
    is_moved: bool = False


@attrs.frozen(slots=True)
class ConsumersRecord:
    """A group whose partitions the broker shares out."""

    epoch: int
    target_epoch: int
    assignor: str
    changed_ms: int


@attrs.frozen(slots=True)
class SubscriptionRecord:
    """What a member of such a group has said of itself."""

    instance_id: str | None
    client_id: str
    host: str
    zone: str | None
    session_ms: int
    rebalance_ms: int
    topics: tuple[str, ...]
    pattern: str | None
    assignor: str | None
    classic: tuple[tuple[str, bytes], ...] | None = None


@attrs.frozen(slots=True)
class CurrentRecord:
    """How far a member has come with its target."""

    epoch: int
    previous_epoch: int
    state: str
    assigned: frozenset[Place]
    revoking: frozenset[Place]


@attrs.frozen
class ShareKey:
    group: str


@attrs.frozen
class QueueKey:
    """`kind`: QUEUE or QUEUED."""

    group: str
    kind: str
    place: Place


@attrs.frozen(slots=True)
class ShareRecord:
    """A group whose members share partitions. `start`: where a queue begins of which nothing is known yet."""

    epoch: int = 0
    changed_ms: int = 0
    start: str = "latest"
    lock_ms: int = QUEUE_LOCK_MS
    deliveries: int = QUEUE_DELIVERIES


Key: TypeAlias = OffsetKey | GroupKey | ConsumersKey | MemberKey | AsideKey | MarksKey | HandedKey | ShareKey | QueueKey


def encode_key(key: Key) -> bytes:
    match key:
        case OffsetKey():
            return cbor2.dumps([OFFSET, key.group, *key.place])
        case GroupKey():
            return cbor2.dumps([GROUP, key.group])
        case ConsumersKey():
            return cbor2.dumps([CONSUMERS, key.group])
        case MemberKey():
            return cbor2.dumps([key.kind, key.group, key.member_id])
        case AsideKey():
            return cbor2.dumps([ASIDE, key.group, *key.place, key.number])
        case MarksKey():
            return cbor2.dumps([key.kind, key.group, *key.place])
        case HandedKey():
            return cbor2.dumps([HANDED, "", key.lane])
        case ShareKey():
            return cbor2.dumps([SHARE, key.group])
        case QueueKey():
            return cbor2.dumps([key.kind, key.group, *key.place])


def decode_key(data: bytes) -> Key | None:
    """None for a kind that a newer release has added."""
    kind, group, *rest = _array(data)
    if kind == OFFSET:
        return OffsetKey(group, (rest[0], rest[1]))
    if kind in {MEMBER, TARGET, CURRENT}:
        return MemberKey(group, kind, rest[0])
    if kind == CONSUMERS:
        return ConsumersKey(group)
    if kind == ASIDE:
        return AsideKey(group, (rest[0], rest[1]), rest[2])
    if kind in {MARKS, MOVED}:
        return MarksKey(group, (rest[0], rest[1]), kind)
    if kind == HANDED:
        return HandedKey(rest[0])
    if kind == SHARE:
        return ShareKey(group)
    if kind in {QUEUE, QUEUED}:
        return QueueKey(group, kind, (rest[0], rest[1]))
    return GroupKey(group) if kind == GROUP else None


def encode_offset(committed: Committed) -> bytes:
    return cbor2.dumps([VERSION, *attrs.astuple(committed)])


def decode_offset(data: bytes) -> Committed:
    return Committed(*_versioned(data)[:4])


def encode_group(record: GroupRecord) -> bytes:
    members = [
        [m.member_id, m.instance_id, m.client_id, m.host, m.session_ms, m.rebalance_ms,
         [list(protocol) for protocol in m.protocols], m.assignment]
        for m in record.members
    ]  # fmt: skip
    return cbor2.dumps(
        [VERSION, record.protocol_type, record.generation, record.protocol, record.leader, members, record.changed_ms]
    )


def decode_group(data: bytes) -> GroupRecord:
    protocol_type, generation, protocol, leader, members, changed_ms = _versioned(data)[:6]
    decoded = tuple(map(_decode_member, members))
    return GroupRecord(protocol_type, generation, protocol, leader, decoded, changed_ms)


def _decode_member(fields: list[Any]) -> MemberRecord:
    member_id, instance_id, client_id, host, session_ms, rebalance_ms, protocols, assignment = fields[:8]
    known = tuple((name, held) for name, held in protocols)
    return MemberRecord(member_id, instance_id, client_id, host, session_ms, rebalance_ms, known, assignment)


def encode_consumers(record: ConsumersRecord) -> bytes:
    return cbor2.dumps([VERSION, *attrs.astuple(record)])


def decode_consumers(data: bytes) -> ConsumersRecord:
    return ConsumersRecord(*_versioned(data)[:4])


def encode_subscription(record: SubscriptionRecord) -> bytes:
    return cbor2.dumps([VERSION, *attrs.astuple(record, recurse=False)])


def decode_subscription(data: bytes) -> SubscriptionRecord:
    instance_id, client_id, host, zone, session_ms, rebalance_ms, topics, pattern, assignor, classic = _versioned(data)[
        :10
    ]
    protocols = None if classic is None else tuple((name, held) for name, held in classic)
    return SubscriptionRecord(
        instance_id, client_id, host, zone, session_ms, rebalance_ms, tuple(topics), pattern, assignor, protocols
    )


def encode_aside(record: AsideRecord) -> bytes:
    return cbor2.dumps(
        [VERSION, record.to, record.due_ms, record.since_ms, record.error, record.reason, record.offsets,
         record.tries, record.is_moved]
    )  # fmt: skip


def decode_aside(key: AsideKey, data: bytes) -> AsideRecord:
    to, due_ms, since_ms, error, reason, offsets, tries, is_moved = _versioned(data)[:8]
    return AsideRecord(key.number, to, due_ms, since_ms, error, reason, tuple(offsets), tries, is_moved)


def encode_marks(ranges: Iterable[int]) -> bytes:
    return cbor2.dumps([VERSION, *ranges])


def decode_marks(data: bytes) -> tuple[int, ...]:
    return tuple(_versioned(data, least=1))


def encode_handed(number: int) -> bytes:
    return cbor2.dumps([VERSION, number])


def decode_handed(data: bytes) -> int:
    return int(_versioned(data)[0])


def encode_places(places: Iterable[Place]) -> list[list[Any]]:
    """By topic, in an order that does not depend on chance."""
    found: dict[str, list[int]] = {}
    for topic_id, partition in sorted(places):
        found.setdefault(topic_id, []).append(partition)
    return [[topic_id, partitions] for topic_id, partitions in found.items()]


def decode_places(plain: list[list[Any]]) -> frozenset[Place]:
    return frozenset((topic_id, partition) for topic_id, partitions in plain for partition in partitions)


def encode_target(places: frozenset[Place]) -> bytes:
    return cbor2.dumps([VERSION, encode_places(places)])


def decode_target(data: bytes) -> frozenset[Place]:
    return decode_places(_versioned(data)[0])


def encode_current(record: CurrentRecord) -> bytes:
    return cbor2.dumps(
        [VERSION, record.epoch, record.previous_epoch, record.state, encode_places(record.assigned),
         encode_places(record.revoking)]
    )  # fmt: skip


def decode_current(data: bytes) -> CurrentRecord:
    epoch, previous, state, assigned, revoking = _versioned(data)[:5]
    return CurrentRecord(epoch, previous, state, decode_places(assigned), decode_places(revoking))


def encode_share(record: ShareRecord) -> bytes:
    return cbor2.dumps([VERSION, *attrs.astuple(record)])


def decode_share(data: bytes) -> ShareRecord:
    return ShareRecord(*_versioned(data)[:5])


def _plain_spans(spans: Iterable[SpanRecord]) -> list[tuple[Any, ...]]:
    return [(s.first, s.last, s.state, s.count, s.holder, s.ms, s.until_ms) for s in spans]


def encode_queue(end: int, spans: Iterable[SpanRecord]) -> bytes:
    return cbor2.dumps([VERSION, end, _plain_spans(spans)])


def decode_queue(data: bytes) -> tuple[int, list[SpanRecord]]:
    end, spans = _versioned(data)[:2]
    return end, [SpanRecord(*span[:7]) for span in spans]


def encode_queued(spans: Iterable[SpanRecord]) -> bytes:
    return cbor2.dumps([VERSION, _plain_spans(spans)])


def decode_queued(data: bytes) -> list[SpanRecord]:
    return [SpanRecord(*span[:7]) for span in _versioned(data)[0]]


def _array(data: bytes, least: int = 2) -> list[Any]:
    try:
        value = cbor2.loads(data)
    except Exception as error:  # cbor2 raises many kinds on damaged bytes; all mean the same here
        raise CorruptMessage(f"a group record is not CBOR: {type(error).__name__}") from None
    if not isinstance(value, list) or len(value) < least:
        raise CorruptMessage(f"a group record must be a CBOR array of {least} or more")
    return value


def _versioned(data: bytes, least: int = 2) -> list[Any]:
    version, *fields = _array(data, least)
    if version > VERSION:
        raise UnsupportedVersion(f"a group record has version {version}, written by a newer dduomq")
    return fields
