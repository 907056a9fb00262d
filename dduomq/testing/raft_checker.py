"""What must be true of a quorum at every moment, whatever fails: figure 3 of the Raft paper, and what clients are told.

E1  in a term there is one leader, in one life of it, and a member gives one vote (election safety)
E2  a leader has everything that was ever committed (leader completeness)
    and is a voter, or was one until a change that it does not know to be committed
E3  who hears a leader helps nobody to depose it, unless that leader hands over (leader stickiness, dissertation 4.2.3)
L1  an index and a term name one entry, and one before it (log matching)
C1  what is committed is on the disks of a majority of the voters at that moment
    and nobody who lacks it could be elected with the disks as they are (figure 8)
C2  what is committed stays, is applied by everybody, in one order, once (state machine safety)
D1  a disk gives back what it has kept: the log, the term, the vote; nobody promises what is not on its disk
R1  a read sees everything that was committed when it was asked for (linearizable reads)
O1  a proposal's outcome is told or named unknown when its leader is deposed

The checker counts for itself and calls nothing of the machine, so that a bug there is none here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs
from crc32c import crc32c

from dduomq.cluster.raft_log import RaftLog
from dduomq.wire.raft_messages import Configuration, LogEntry, Peer


class Broken(AssertionError):
    """An invariant does not hold."""


@attrs.frozen
class Fact:
    """A committed entry. `state` is what the state machine is after it."""

    entry: LogEntry
    state: int


def after(state: int, entry: LogEntry) -> int:
    """The state machine: all commands in their order, as one number."""
    return int(crc32c(entry.data, state)) if entry.data else state


class Truth:
    """All that has come out so far, of all members and all their lives."""

    def __init__(self, first: int) -> None:
        self.first = first  # the index that all members began with
        self.committed: dict[int, Fact] = {}
        self.last = first
        self.seen = Counter[str]()  # what has happened how often
        self._leaders: dict[int, tuple[Peer, int]] = {}
        self._votes: dict[tuple[Peer, int], Peer] = {}
        self._entries: dict[tuple[int, int], tuple[LogEntry, int]] = {}

    # --- elections ----------------------------------------------------------------------------------

    def leads(self, peer: Peer, life: int, term: int, log: RaftLog) -> None:
        """E1 and E2, when a leader is first seen, in that life of the member."""
        known = self._leaders.setdefault(term, (peer, life))
        if known != (peer, life):
            raise Broken(f"E1: {known[0]} and {peer} lead in term {term}, in lives {known[1]} and {life}")
        for index in range(log.base + 1, self.last + 1):
            if log.term_at(index) != self.committed[index].entry.term:
                raise Broken(f"E2: {peer} leads in term {term} without the committed entry {index}")
        if peer not in log.configuration.voters + log.configuration_at(log.committed).voters:
            raise Broken(f"E2: {peer} leads in term {term} and is no voter")
        self.seen["elections"] += 1

    def votes(self, peer: Peer, term: int, candidate: Peer) -> None:
        if self._votes.setdefault((peer, term), candidate) != candidate:
            raise Broken(f"E1: {peer} votes for {self._votes[peer, term]} and for {candidate} in term {term}")

    # --- logs ---------------------------------------------------------------------------------------

    def writes(self, peer: Peer, entries: Iterable[LogEntry], log: RaftLog) -> None:
        """L1, when a member writes entries."""
        for entry in entries:
            previous = log.term_at(entry.index - 1)
            known = self._entries.setdefault((entry.index, entry.term), (entry, previous))
            if known[0] != entry or (known[1] != previous and -1 not in (known[1], previous)):
                raise Broken(f"L1: entry {entry.index} of term {entry.term} at {peer} is another one than elsewhere")

    def commits(self, log: RaftLog, before: int, configuration: Configuration, disks: Mapping[Peer, "Disk"]) -> None:
        """C1 and C2, when a leader's commit index has moved on from `before`."""
        for entry in log.entries(max(before, log.base), log.committed):
            if entry.index in self.committed:
                self._same(entry)
                continue
            if entry.index != self.last + 1:
                raise Broken(f"C2: entry {entry.index} is committed, entry {self.last + 1} is not")
            holders = [v for v in configuration.voters if v in disks and disks[v].holds(entry.index, entry.term)]
            if 2 * len(holders) <= len(configuration.voters):
                raise Broken(f"C1: entry {entry.index} is committed, but only {[str(h) for h in holders]} keep it")
            self._check_electable(
                entry, [disks[voter] for voter in configuration.voters if voter in disks], configuration
            )
            before_it = self.committed[self.last].state if self.last in self.committed else 0
            self.committed[entry.index] = Fact(entry, after(before_it, entry))
            self.last = entry.index
            self.seen["commits"] += 1

    def _check_electable(self, entry: LogEntry, voters: list["Disk"], configuration: Configuration) -> None:
        """C1, figure 8: whoever has no such entry has the worse log in the eyes of a majority."""
        for candidate in voters:
            if not candidate.holds(entry.index, entry.term):
                votes = sum(voter.end <= candidate.end for voter in voters)
                if 2 * votes > len(configuration.voters):
                    raise Broken(f"C1: entry {entry.index} is committed, and who lacks it could be elected")

    def _same(self, entry: LogEntry) -> None:
        if self.committed[entry.index].entry != entry:
            raise Broken(f"C2: entry {entry.index} was committed as one thing and is another one")

    def applies(self, peer: Peer, entry: LogEntry, applied: int) -> None:
        if entry.index != applied + 1:
            raise Broken(f"C2: {peer} applies entry {entry.index} after entry {applied}")
        if entry.index not in self.committed:
            raise Broken(f"C2: {peer} applies entry {entry.index}, which no leader has committed")
        self._same(entry)

    def state_at(self, index: int) -> int:
        return self.committed[index].state if index in self.committed else 0


class Disk:
    """What one member's disk must have, as told by what was saved and synced there."""

    def __init__(self) -> None:
        self.base = self._base_term = 0
        self.terms: dict[int, int] = {}
        self.term = 0
        self.vote: Peer | None = None

    def holds(self, index: int, term: int) -> bool:
        return index <= self.base or self.terms.get(index) == term

    @property
    def end(self) -> tuple[int, int]:
        """The last term and the last index: the better log has more (5.4.1)."""
        last = max(self.terms, default=self.base)
        return self.terms.get(last, self._base_term), last

    def keep(
        self, entries: tuple[LogEntry, ...], term: int, vote: Peer | None, anew: tuple[int, int] | None
    ) -> None:  # fmt: skip
        """A save has come to its end. `anew`: index and term of a snapshot that replaces all before."""
        self.term, self.vote = term, vote
        if anew is not None:
            self.base, self._base_term = anew
            self.terms.clear()
        if entries:
            for index in [index for index in self.terms if index >= entries[0].index]:
                del self.terms[index]
            self.terms.update((entry.index, entry.term) for entry in entries)

    def compact(self, index: int, term: int) -> None:
        self.base, self._base_term = index, term
        for held in [held for held in self.terms if held <= index]:
            del self.terms[held]

    def copy(self) -> "Disk":
        other = Disk()
        other.base, other._base_term = self.base, self._base_term
        other.terms, other.term, other.vote = dict(self.terms), self.term, self.vote
        return other

    def same(self, other: "Disk") -> bool:
        mine, theirs = ((d.base, d.terms, d.term, d.vote) for d in (self, other))
        return mine == theirs
