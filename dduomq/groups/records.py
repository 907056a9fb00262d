"""What `__groups` holds: a record's key says what it is about, its value what is so from now on.

Keys and values are CBOR arrays. A null value ends what its key names. Always true: replaying the records in
their order gives the state that made them; a value written by one release is read by the next: each begins
with its version, unknown trailing fields are ignored.

    ["offset", group, topic id, partition]  ->  [1, offset, leader epoch, metadata, commit time ms]
    ["group", group]                        ->  [1, protocol type, generation, protocol, leader, members, time ms]
    a member                                 =  [id, instance id, client id, host, session ms, rebalance ms,
                                                 [[protocol, metadata], ...], assignment]
"""

from typing import Any, TypeAlias

import attrs
import cbor2

from dduomq.errors import CorruptMessage, UnsupportedVersion

VERSION = 1
OFFSET, GROUP = "offset", "group"
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


Key: TypeAlias = OffsetKey | GroupKey


def encode_key(key: Key) -> bytes:
    if isinstance(key, OffsetKey):
        return cbor2.dumps([OFFSET, key.group, *key.place])
    return cbor2.dumps([GROUP, key.group])


def decode_key(data: bytes) -> Key | None:
    """None for a kind that a newer release has added."""
    kind, group, *rest = _array(data)
    if kind == OFFSET:
        return OffsetKey(group, (rest[0], rest[1]))
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


def _array(data: bytes) -> list[Any]:
    try:
        value = cbor2.loads(data)
    except Exception as error:  # cbor2 raises many kinds on damaged bytes; all mean the same here
        raise CorruptMessage(f"a group record is not CBOR: {type(error).__name__}") from None
    if not isinstance(value, list) or len(value) < 2:
        raise CorruptMessage("a group record must be a CBOR array")
    return value


def _versioned(data: bytes) -> list[Any]:
    version, *fields = _array(data)
    if version > VERSION:
        raise UnsupportedVersion(f"a group record has version {version}, written by a newer dduomq")
    return fields
