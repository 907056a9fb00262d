"""One save of the quorum's write-ahead log as bytes, and what many of them come to.

Pure. Always true: a save whose entries begin at an index replaces all that was saved from that index on, as the machine
cut its log there; entries count only if they surely follow the snapshot: the log has the entry it ends with, or was
begun anew behind it. A gap is damage and never passed over.
"""

import struct

import attrs

from dduomq.cluster.raft_ready import HardState, Stored
from dduomq.errors import CorruptMessage, UnsupportedVersion, WireError
from dduomq.wire.raft import VERSION, Cursor, put_entries, put_optional_peer, take_entries, take_optional_peer
from dduomq.wire.raft_messages import LogEntry, Snapshot

_SAVE = 1
_U32, _U64, _TWO = struct.Struct(">I"), struct.Struct(">Q"), struct.Struct(">QQ")


@attrs.frozen
class Save:
    """`anew`: (index, term) of a received snapshot that all before gives way to."""

    hard_state: HardState
    anew: tuple[int, int] | None
    entries: tuple[LogEntry, ...]

    @property
    def highest(self) -> int:
        """The highest index that this save is about."""
        return self.entries[-1].index if self.entries else 0 if self.anew is None else self.anew[0]


def encode_save(save: Save) -> bytes:
    state, anew = save.hard_state, save.anew
    return b"".join([
        bytes((_SAVE, VERSION)), _U64.pack(state.term), put_optional_peer(state.vote), _U64.pack(state.commit),
        b"\x00" if anew is None else b"\x01" + _TWO.pack(*anew),
        _U32.pack(len(save.entries)), *put_entries(save.entries),
    ])  # fmt: skip


def decode_save(body: bytes, path: str) -> Save:
    """Raises `UnsupportedVersion`; `CorruptMessage` for bytes that have the right CRC and make no sense."""
    if len(body) < 2 or body[0] != _SAVE or body[1] > VERSION:
        raise UnsupportedVersion(f"{path} has a save of type and version {list(body[:2])}, written by a newer dduomq")
    try:
        cursor = Cursor(body)
        cursor.take(2)
        term, vote, commit = cursor.number(), take_optional_peer(cursor), cursor.number()
        anew = (cursor.number(), cursor.number()) if cursor.flag() else None
        entries = take_entries(cursor)
        cursor.end()
    except WireError as error:
        raise CorruptMessage(f"{path} has a save that makes no sense: {error.message}") from None
    return Save(HardState(term, vote, commit), anew, entries)


class Replay:
    """Takes saves in their order."""

    def __init__(self, *, is_from_the_start: bool) -> None:
        self.count = 0
        self.hard_state = HardState()
        self._base = (0, 0) if is_from_the_start else None  # (index, term) before the first entry, where that is known
        self._entries: list[LogEntry] = []

    def add(self, save: Save) -> None:
        """Raises `CorruptMessage`."""
        self.count += 1
        self.hard_state = save.hard_state
        if save.anew is not None:
            self._base = save.anew
            self._entries.clear()
        if not save.entries:
            return
        first = save.entries[0].index
        begin = self._begin(first)
        if not begin <= first <= begin + len(self._entries):
            raise CorruptMessage(f"entry {first} does not follow what was saved before it")
        del self._entries[first - begin :]
        self._entries.extend(save.entries)

    def _begin(self, first: int) -> int:
        """The index of the first entry held, if `first` is the next that is saved."""
        if self._base is not None:
            return self._base[0] + 1
        if self._entries and first < self._entries[0].index:
            self._entries.clear()
        return self._entries[0].index if self._entries else first

    def stored(self, snapshot: Snapshot) -> Stored | None:
        """What all of it comes to with the newest snapshot; None if the log is another one. Raises `CorruptMessage`."""
        entries = self._behind(snapshot)
        return None if entries is None else Stored(snapshot, self.hard_state, entries)

    def _behind(self, snapshot: Snapshot) -> tuple[LogEntry, ...] | None:
        if self._base == (snapshot.index, snapshot.term):
            return tuple(self._entries)
        begin = self._entries[0].index if self._entries else 0
        if (self._base is not None and self._base[0] > snapshot.index) or begin > snapshot.index:
            raise CorruptMessage(f"the snapshot at {snapshot.index} is older than the log behind it")
        at = snapshot.index - begin
        if at < len(self._entries) and self._entries[at].term == snapshot.term:
            return tuple(self._entries[at + 1 :])
        return None  # the log ends before the snapshot, or is not the one that it was made of
