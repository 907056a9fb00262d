"""The metadata state machine: keys and versions, and the entries that change them.

Always true: `apply` of an entry is the only thing that changes state, so that recovery, a follower and
normal running are one code. An entry of an unknown type or newer version stops recovery with a clear line.

An entry on disk: u32 length · u32 CRC-32C of what follows · CBOR [type, version, revision, operations];
operations are [1, key, value] to put and [2, key] to delete.
"""

import struct
from collections.abc import Sequence
from typing import Any

import attrs
import cbor2
from crc32c import crc32c

from dduomq.cluster.ports import Changed, Check, Del, MetadataConflict, Operation, Put, Versioned
from dduomq.errors import CorruptMessage, UnsupportedVersion

ENTRY_TXN = 1
ENTRY_VERSION = 1
_PREFIX = struct.Struct(">II")
_PUT, _DEL = 1, 2


@attrs.frozen
class Entry:
    """One committed transaction."""

    revision: int
    writes: tuple[Put | Del, ...]


class MetadataState:
    """All keys in memory; plan, then apply what was made durable."""

    def __init__(self) -> None:
        self.revision = 0
        self._values: dict[str, Versioned] = {}

    def get(self, key: str) -> Versioned | None:
        return self._values.get(key)

    def scan(self, prefix: str) -> list[Versioned]:
        return sorted((v for k, v in self._values.items() if k.startswith(prefix)), key=lambda v: v.key)

    def plan(self, operations: Sequence[Operation]) -> Entry:
        """The entry that carries out `operations`; raises `MetadataConflict` if a check fails."""
        for operation in operations:
            if isinstance(operation, Check):
                held = self._values.get(operation.key)
                if (0 if held is None else held.version) != operation.version:
                    raise MetadataConflict(f"{operation.key} has changed meanwhile")
        writes = tuple(item for item in operations if not isinstance(item, Check))
        return Entry(self.revision + 1, writes)

    def apply(self, entry: Entry) -> list[Changed]:
        self.revision = entry.revision
        changes = []
        for write in entry.writes:
            if isinstance(write, Put):
                self._values[write.key] = Versioned(write.key, write.value, entry.revision)
                changes.append(Changed(write.key, write.value, entry.revision))
            else:
                self._values.pop(write.key, None)
                changes.append(Changed(write.key, None, entry.revision))
        return changes

    def restore(self, revision: int, values: Sequence[Versioned]) -> None:
        """Be what another one was, versions and all."""
        self.revision = revision
        self._values = {value.key: value for value in values}

    def snapshot(self) -> Entry:
        """One entry that makes this whole state out of nothing, versions aside."""
        return Entry(self.revision, tuple(Put(v.key, v.value) for v in self.scan("")))


def encode(entry: Entry) -> bytes:
    writes = [[_PUT, w.key, w.value] if isinstance(w, Put) else [_DEL, w.key] for w in entry.writes]
    body = cbor2.dumps([ENTRY_TXN, ENTRY_VERSION, entry.revision, writes])
    return _PREFIX.pack(len(body), crc32c(body)) + body


def decode_all(data: bytes) -> tuple[list[Entry], int]:
    """(entries, bytes that hold whole ones). A torn tail ends it; damage before a whole entry raises.

    Raises `CorruptMessage` for a bad entry that is not the last, `UnsupportedVersion` for a newer one.
    """
    entries: list[Entry] = []
    position = 0
    while position < len(data):
        end = _end_of(data, position)
        if end is None:
            _refuse_damage(data, position)
            break
        entries.append(_decode(data[position + _PREFIX.size : end]))
        position = end
    return entries, position


def _end_of(data: bytes, position: int) -> int | None:
    """Where the whole entry at `position` ends, or None if there is none."""
    if len(data) - position < _PREFIX.size:
        return None
    length, crc = _PREFIX.unpack_from(data, position)
    start = position + _PREFIX.size
    if length > len(data) - start or length == 0 or crc32c(data[start : start + length]) != crc:
        return None
    return start + int(length)


def _refuse_damage(data: bytes, position: int) -> None:
    """A torn tail has nothing whole behind it; if there is something, the damage is not a torn tail."""
    for later in range(position + 1, len(data) - _PREFIX.size):
        if _end_of(data, later) is not None:
            raise CorruptMessage(
                f"the metadata log is damaged at byte {position}, whole entries follow at {later}; "
                "restore DATA/metadata from a copy"
            )


def _decode(body: bytes) -> Entry:
    plain: Any = cbor2.loads(body)
    kind, version, revision, writes = plain[:4]
    if kind != ENTRY_TXN or version > ENTRY_VERSION:
        raise UnsupportedVersion(
            f"the metadata log holds an entry of type {kind} version {version}, written by a newer dduomq; "
            "start that version instead"
        )
    return Entry(revision, tuple(Put(w[1], w[2]) if w[0] == _PUT else Del(w[1]) for w in writes))
