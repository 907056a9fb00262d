"""The bytes of the metadata quorum: messages between members, entries and snapshots on disk.

    message        u8 type · u8 version · source · target · u64 term · fields of the type
    member         u32 node · u8 length · directory (UTF-8)
    configuration  u16 voters · members · u16 learners · members
    entry          u64 index · u64 term · u8 kind · u32 length · data or configuration
    snapshot       u64 index · u64 term · configuration · u32 length · data

Always true: bad bytes raise `WireError` (a newer version `UnsupportedVersion`) and nothing else; a count or a length is
held against what is left before anything is made of it; nothing may follow the last field.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from dduomq.errors import UnsupportedVersion, WireError
from dduomq.limits import RAFT_MEMBERS_MAX
from dduomq.ports import Buffer
from dduomq.wire import raft_messages as words
from dduomq.wire.raft_messages import Configuration, LogEntry, Message, Peer, RaftMessage, Snapshot

VERSION = 1
TERM_MAX = 2**63 - 1  # so that there is always a next one
_U8, _U16, _U32, _U64 = struct.Struct(">B"), struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_HEAD, _ENTRY, _PEER = struct.Struct(">BB"), struct.Struct(">QQBI"), struct.Struct(">IB")
_TWO, _THREE, _APPEND = struct.Struct(">QQ"), struct.Struct(">QQQ"), struct.Struct(">QQQI")
_EMPTY, _COMMAND, _CONFIGURATION = 0, 1, 2


class Cursor:
    """Takes one field after the other; raises `WireError` where there is none."""

    __slots__ = ("at", "data")

    def __init__(self, data: Buffer) -> None:
        self.data = memoryview(data)
        self.at = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def unpack(self, shape: struct.Struct) -> tuple[int, ...]:
        if self.left < shape.size:
            raise WireError(f"{shape.size} bytes were expected, {self.left} are left")
        found = shape.unpack_from(self.data, self.at)
        self.at += shape.size
        return found

    def number(self, shape: struct.Struct = _U64) -> int:
        return self.unpack(shape)[0]

    def flag(self) -> bool:
        value = self.number(_U8)
        if value > 1:
            raise WireError(f"a flag is 0 or 1, not {value}")
        return value == 1

    def take(self, size: int) -> bytes:
        if self.left < size:
            raise WireError(f"{size} bytes are announced, {self.left} are left")
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def count(self, shape: struct.Struct, bytes_each: int) -> int:
        """How many items follow; there must be room for them."""
        count = self.number(shape)
        if count * bytes_each > self.left:
            raise WireError(f"{count} items are announced, {self.left} bytes are left")
        return count

    def end(self) -> None:
        if self.left:
            raise WireError(f"{self.left} bytes follow the last field")


# --- members and configurations ---------------------------------------------------------------------


def _put_peer(peer: Peer) -> bytes:
    directory = peer.directory.encode()
    return _PEER.pack(peer.node, len(directory)) + directory


def _take_peer(cursor: Cursor) -> Peer:
    node, length = cursor.unpack(_PEER)
    try:
        return Peer(node, cursor.take(length).decode())
    except UnicodeDecodeError:
        raise WireError("a directory's id is not UTF-8") from None


def _put_configuration(configuration: Configuration) -> bytes:
    parts = []
    for peers in (configuration.voters, configuration.learners):
        parts += [_U16.pack(len(peers)), *map(_put_peer, peers)]
    return b"".join(parts)


def _take_peers(cursor: Cursor) -> tuple[Peer, ...]:
    count = cursor.count(_U16, _PEER.size)
    if count > RAFT_MEMBERS_MAX:
        raise WireError(f"{count} members are announced, {RAFT_MEMBERS_MAX} is the most")
    return tuple([_take_peer(cursor) for _ in range(count)])


def _take_configuration(cursor: Cursor) -> Configuration:
    found = Configuration(_take_peers(cursor), _take_peers(cursor))
    members = found.members
    if not found.voters:
        raise WireError("a configuration has no voters")
    if list(found.voters) != sorted(found.voters) or list(found.learners) != sorted(found.learners):
        raise WireError("the members of a configuration are not sorted")
    if len({peer.node for peer in members}) != len(members):
        raise WireError("a node stands twice in a configuration")
    return found


# --- entries and snapshots --------------------------------------------------------------------------


def put_entries(entries: Sequence[LogEntry]) -> list[bytes]:
    """The pieces of the entries, without their count."""
    parts = []
    for entry in entries:
        kind, body = (_COMMAND, entry.data) if entry.data else (_EMPTY, b"")
        if entry.configuration is not None:
            kind, body = _CONFIGURATION, _put_configuration(entry.configuration)
        parts += [_ENTRY.pack(entry.index, entry.term, kind, len(body)), body]
    return parts


def take_entries(cursor: Cursor) -> tuple[LogEntry, ...]:
    """A u32 count, and so many entries with rising indexes without a gap."""
    entries: list[LogEntry] = []
    for _ in range(cursor.count(_U32, _ENTRY.size)):
        index, term, kind, length = cursor.unpack(_ENTRY)
        if entries and (index != entries[-1].index + 1 or term < entries[-1].term):
            raise WireError(f"entry {index} of term {term} can't follow entry {entries[-1].index}")
        body = cursor.take(length)
        entries.append(LogEntry(index, term, *_content(kind, body)))
    return tuple(entries)


def _content(kind: int, body: bytes) -> tuple[bytes, Configuration | None]:
    if kind == _CONFIGURATION:
        inner = Cursor(body)
        configuration = _take_configuration(inner)
        inner.end()
        return b"", configuration
    if kind not in {_EMPTY, _COMMAND} or (kind == _COMMAND) != bool(body):
        raise WireError(f"an entry of kind {kind} with {len(body)} bytes")
    return body, None


def put_snapshot(snapshot: Snapshot) -> list[bytes]:
    head = _TWO.pack(snapshot.index, snapshot.term)
    return [head, _put_configuration(snapshot.configuration), _U32.pack(len(snapshot.data)), snapshot.data]


def take_snapshot(cursor: Cursor) -> Snapshot:
    index, term = cursor.unpack(_TWO)
    configuration = _take_configuration(cursor)
    return Snapshot(index, term, configuration, cursor.take(cursor.number(_U32)))


def put_optional_peer(peer: Peer | None) -> bytes:
    return b"\x00" if peer is None else b"\x01" + _put_peer(peer)


def take_optional_peer(cursor: Cursor) -> Peer | None:
    return _take_peer(cursor) if cursor.flag() else None


# --- messages ---------------------------------------------------------------------------------------

_Pair: TypeAlias = tuple[Callable[..., list[bytes]], Callable[..., RaftMessage]]  # put, take


def _put_append(message: words.Append) -> list[bytes]:
    numbers = message.previous_index, message.previous_term, message.commit, len(message.entries)
    return [_APPEND.pack(*numbers), *put_entries(message.entries)]


def _take_append(cursor: Cursor, ends: dict[str, Any]) -> RaftMessage:
    previous_index, previous_term, commit = cursor.unpack(_THREE)
    entries = take_entries(cursor)
    if entries and (entries[0].index != previous_index + 1 or entries[0].term < previous_term):
        raise WireError(f"entry {entries[0].index} can't follow entry {previous_index} of term {previous_term}")
    if max(previous_term, entries[-1].term if entries else 0) > ends["term"]:
        raise WireError(f"entries of a later term than {ends['term']}, in which they were sent")
    return words.Append(
        previous_index=previous_index, previous_term=previous_term, entries=entries, commit=commit, **ends
    )  # fmt: skip


def _take_install(cursor: Cursor, ends: dict[str, Any]) -> RaftMessage:
    snapshot = take_snapshot(cursor)
    if snapshot.term > ends["term"]:
        raise WireError(f"a snapshot of a later term than {ends['term']}, in which it was sent")
    return words.InstallSnapshot(snapshot=snapshot, **ends)


def _numbers(kind: Callable[..., RaftMessage], *names: str) -> _Pair:
    """Put and take for a message of numbers only."""
    shape = struct.Struct(">" + "Q" * len(names))

    def put(message: Message) -> list[bytes]:
        return [shape.pack(*[getattr(message, name) for name in names])]

    def take(cursor: Cursor, ends: dict[str, Any]) -> RaftMessage:
        return kind(**dict(zip(names, cursor.unpack(shape), strict=True)), **ends)

    return put, take


def _flags(
    kind: Callable[..., RaftMessage], name: str, *names: str
) -> tuple[Callable[..., list[bytes]], Callable[..., RaftMessage]]:
    """Put and take for a message of numbers and a flag behind them."""
    shape = struct.Struct(">" + "Q" * len(names))

    def put(message: Message) -> list[bytes]:
        return [shape.pack(*[getattr(message, each) for each in names]), _U8.pack(getattr(message, name))]

    def take(cursor: Cursor, ends: dict[str, Any]) -> RaftMessage:
        numbers = dict(zip(names, cursor.unpack(shape), strict=True))
        return kind(**numbers, **{name: cursor.flag()}, **ends)

    return put, take


_KINDS: tuple[tuple[type[Message], _Pair], ...] = (
    (words.PreVote, _numbers(words.PreVote, "last_index", "last_term")),
    (words.PreVoteAnswer, _flags(words.PreVoteAnswer, "is_granted")),
    (words.Vote, _flags(words.Vote, "is_transfer", "last_index", "last_term")),
    (words.VoteAnswer, _flags(words.VoteAnswer, "is_granted")),
    (words.Append, (_put_append, _take_append)),
    (words.Appended, _numbers(words.Appended, "match")),
    (words.AppendRefused, _numbers(words.AppendRefused, "previous_index", "hint_index", "hint_term")),
    (words.Heartbeat, _numbers(words.Heartbeat, "commit", "round")),
    (words.HeartbeatAnswer, _numbers(words.HeartbeatAnswer, "round")),
    (words.InstallSnapshot, (lambda message: put_snapshot(message.snapshot), _take_install)),
    (words.ReadAsk, _numbers(words.ReadAsk, "context")),
    (words.ReadAnswer, _numbers(words.ReadAnswer, "context", "index")),
    (words.TransferNow, _numbers(words.TransferNow)),
)  # fmt: skip
_PUT = {kind: (number, put) for number, (kind, (put, _)) in enumerate(_KINDS, 1)}
_TAKE = {number: take for number, (_, (_, take)) in enumerate(_KINDS, 1)}


def encode(message: RaftMessage) -> bytes:
    """The bytes of one message; a frame around them says how many."""
    number, put = _PUT[type(message)]
    ends = _put_peer(message.source) + _put_peer(message.target) + _U64.pack(message.term)
    return b"".join([_HEAD.pack(number, VERSION), ends, *put(message)])


def decode(data: Buffer) -> RaftMessage:
    """The message that `encode` made these bytes of. Raises `WireError`, `UnsupportedVersion`."""
    cursor = Cursor(data)
    number, version = cursor.unpack(_HEAD)
    if version > VERSION:
        raise UnsupportedVersion(f"a quorum message of type {number} has version {version}, {VERSION} is known here")
    take = _TAKE.get(number)
    if take is None or version < 1:
        raise WireError(f"no quorum message has type {number} and version {version}")
    ends: dict[str, Any] = {"source": _take_peer(cursor), "target": _take_peer(cursor), "term": cursor.number()}
    if ends["term"] > TERM_MAX:
        raise WireError(f"no term is as high as {ends['term']}")
    message = take(cursor, ends)
    cursor.end()
    return message
