"""The log as the machine sees it: a snapshot, the entries behind it, and how far they are stable, committed, applied.

Pure. Always true: applied <= committed <= last; what is committed is never taken out (figure 3, "leader completeness");
indexes follow one another without a gap; the configuration in force is the last one in the log, committed or not
(dissertation 4.1), so cutting the log may bring an older one back. `base` is the index before the first entry held: a
compacted log keeps some entries that its snapshot covers, for followers that are a little late.
"""

from collections.abc import Sequence

from dduomq.cluster.raft_ready import Stored
from dduomq.errors import InvariantBroken
from dduomq.wire.raft_messages import Configuration, LogEntry, Snapshot


class RaftLog:
    """One member's log."""

    __slots__ = (
        "_base_term", "_configurations", "_entries", "applied", "base", "committed", "pending", "snapshot", "stable",
    )  # fmt: skip

    def __init__(self, stored: Stored) -> None:
        self.pending: Snapshot | None = None  # received, not yet on the disk
        self.committed = self.applied = self.stable = 0
        self._begin_at(stored.snapshot)
        self._extend(stored.entries)
        self.stable = self.last
        self.committed = max(stored.hard_state.commit, self.committed)
        if self.committed > self.last:
            raise InvariantBroken(f"the log ends at {self.last}, but {self.committed} was committed")

    def _begin_at(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.base, self._base_term = snapshot.index, snapshot.term
        self.committed = self.applied = self.stable = snapshot.index
        self._entries: list[LogEntry] = []
        self._configurations = [(snapshot.index, snapshot.configuration)]

    # --- looking ------------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        return self.base + len(self._entries)

    @property
    def last_term(self) -> int:
        return self._entries[-1].term if self._entries else self._base_term

    def term_at(self, index: int) -> int:
        """The term of the entry at `index`; -1 where it is not known."""
        if self.base < index <= self.last:
            return self._entries[index - self.base - 1].term
        return self._base_term if index == self.base else -1

    def matches(self, index: int, term: int) -> bool:
        """Whether this log holds the entry (figure 2, AppendEntries 2); then all before it agree, too (figure 3)."""
        return self.term_at(index) == term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a candidate's log is no worse than this one (5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last)

    def last_not_above(self, index: int, term: int) -> int:
        """The last index up to `index` whose term is no higher than `term`: where two logs may agree (5.3)."""
        index = min(index, self.last)
        while index > self.base and self.term_at(index) > term:
            index -= 1
        return max(index, self.base)

    def entries(self, after: int, last: int) -> tuple[LogEntry, ...]:
        """All entries behind `after` up to `last`."""
        return tuple(self._entries[after - self.base : last - self.base])

    def between(self, after: int, last: int, bytes_max: int) -> tuple[LogEntry, ...]:
        """Entries behind `after` up to `last`: one at least, more as long as their data is within `bytes_max`."""
        end, size = after, 0
        for entry in self._entries[after - self.base : last - self.base]:
            size += len(entry.data)
            if size > bytes_max and end > after:
                break
            end += 1
        return self.entries(after, end)

    # --- configurations -----------------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        return self._configurations[-1][1]

    @property
    def configuration_index(self) -> int:
        return self._configurations[-1][0]

    def configuration_at(self, index: int) -> Configuration:
        """What was in force when `index` was the last entry."""
        return next(found for at, found in reversed(self._configurations) if at <= index)

    # --- growing ------------------------------------------------------------------------------------

    def append(self, entries: Sequence[LogEntry]) -> None:
        """Take what a leader says follows an entry that matches; only a conflict cuts the log (5.3)."""
        for at, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                if entry.index <= self.last:
                    self._cut(entry.index)
                self._extend(entries[at:])
                return

    def _extend(self, entries: Sequence[LogEntry]) -> None:
        if entries and entries[0].index != self.last + 1:
            raise InvariantBroken(f"entry {entries[0].index} does not follow entry {self.last}")
        self._entries.extend(entries)
        for entry in entries:
            if entry.configuration is not None and entry.index > self.snapshot.index:
                self._configurations.append((entry.index, entry.configuration))

    def _cut(self, index: int) -> None:
        """Take out `index` and all behind it: another leader has decided otherwise."""
        if index <= self.committed:
            raise InvariantBroken(f"entry {index} is committed, a leader has another one")
        del self._entries[index - self.base - 1 :]
        self._configurations = [held for held in self._configurations if held[0] < index]
        self.stable = min(self.stable, index - 1)

    def commit_to(self, index: int) -> None:
        self.committed = max(self.committed, min(index, self.last))

    # --- to the disk and to the state machine -------------------------------------------------------

    def unstable(self) -> tuple[LogEntry, ...]:
        return tuple(self._entries[self.stable - self.base :])

    def to_apply(self, bytes_max: int) -> tuple[LogEntry, ...]:
        """Committed entries that were not handed out yet; they are on the disk, or go there before they are applied."""
        after = self.applied if self.pending is None else self.pending.index
        return self.between(after, self.committed, bytes_max)

    def stored(self, entry: LogEntry) -> None:
        """The log up to this entry is on the disk, unless the entry has been taken out meanwhile."""
        if entry.index > self.stable and self.matches(entry.index, entry.term):
            self.stable = entry.index

    # --- snapshots ----------------------------------------------------------------------------------

    def restore(self, snapshot: Snapshot) -> None:
        """A leader's snapshot replaces the whole log (section 7)."""
        applied = self.applied
        self._begin_at(snapshot)
        self.applied = applied
        self.pending = snapshot

    def restored(self, snapshot: Snapshot) -> None:
        """It is on the disk, and the state machine is what it says."""
        self.applied = max(self.applied, snapshot.index)
        if self.pending is snapshot:
            self.pending = None

    def compact(self, index: int, data: bytes, entries_kept: int) -> Snapshot:
        """The state machine at `index` is `data`: entries before are not needed, but for some that are kept."""
        if not self.snapshot.index < index <= self.applied:
            raise InvariantBroken(
                f"no snapshot at {index}: there is one at {self.snapshot.index}, {self.applied} is applied"
            )
        configuration = self.configuration_at(index)
        self.snapshot = Snapshot(index, self.term_at(index), configuration, data)
        base = max(self.base, index - entries_kept)
        self.base, self._base_term, dropped = base, self.term_at(base), base - self.base
        del self._entries[:dropped]
        later = [held for held in self._configurations if held[0] > index]
        self._configurations = [(index, configuration), *later]
        return self.snapshot
