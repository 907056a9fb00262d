"""What a leader alone knows: how far the others are, which reads wait, to whom it hands over.

Pure; made when a term is won and thrown away when it ends, so nothing of one term is taken for news in another. Always
true: only an entry of the own term is committed by counting (5.4.2, figure 8); the own log counts only as far as it is
on the disk; a leader that is not in the configuration does not count itself (dissertation 4.2.2).
"""

from collections.abc import Iterator

from dduomq.cluster import raft_conf
from dduomq.cluster.raft_log import RaftLog
from dduomq.cluster.raft_progress import SNAPSHOT, Progress
from dduomq.cluster.raft_reads import Ask, Reads, Round
from dduomq.cluster.raft_ready import Settings
from dduomq.cluster.raft_refusals import QuorumBusy
from dduomq.wire.raft_messages import (
    Append,
    Appended,
    AppendRefused,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    LogEntry,
    Peer,
    RaftMessage,
    TransferNow,
)

SNAPSHOT_RETRY_TIMEOUTS = 4  # in election time-outs


class Leadership:
    """One term of one leader."""

    __slots__ = (
        "_heartbeat_in", "_is_heartbeat_due", "_log", "_look_in", "_me", "_settings", "_transfer_in", "_transfer_sent",
        "_uncommitted", "first", "progress", "reads", "term", "transferring",
    )  # fmt: skip

    def __init__(self, me: Peer, term: int, log: RaftLog, settings: Settings) -> None:
        self._me = me
        self.term = term
        self._log = log
        self._settings = settings
        self.first = log.last + 1  # the index of the first entry of this term
        self.progress: dict[Peer, Progress] = {}
        self.reads = Reads()
        self.transferring: Peer | None = None
        self._transfer_in = 0
        self._transfer_sent = False
        self._heartbeat_in = settings.heartbeat_ticks
        self._look_in = settings.election_ticks
        self._is_heartbeat_due = True
        self._uncommitted = 0  # bytes of proposals
        self.configure()

    def configure(self) -> None:
        """The configuration in force is another one: follow who is in it, and nobody else."""
        members = [peer for peer in self._log.configuration.members if peer != self._me]
        in_flight_max = self._settings.in_flight_max
        next_index = self._log.last + 1
        self.progress = {p: self.progress.get(p) or Progress(next_index, in_flight_max) for p in members}
        if self.transferring not in self._log.configuration.voters:
            self.transferring = None

    # --- committing ---------------------------------------------------------------------------------

    def own_match(self) -> int:
        """How far the own log counts: what is not on the disk may be gone after a crash."""
        return self._log.stable

    def committable(self) -> int:
        """The highest index that may be committed now, 0 if none (figure 2, "Leaders"; figure 8)."""
        marks = {peer: progress.match for peer, progress in self.progress.items()}
        index = raft_conf.reached(self._log.configuration, {**marks, self._me: self.own_match()})
        return index if self._log.term_at(index) == self.term else 0

    @property
    def has_committed(self) -> bool:
        """Whether an entry of this term is committed: before that a leader does not know what is (6.4)."""
        return self._log.committed >= self.first

    def take(self, entry: LogEntry) -> None:
        """A proposal comes into the log. Raises `QuorumBusy`."""
        size = len(entry.data)
        if self._uncommitted and self._uncommitted + size > self._settings.uncommitted_bytes_max:
            raise QuorumBusy(f"{self._uncommitted} bytes of proposals wait to be committed; try again")
        self._uncommitted += size

    def committed(self, entries: tuple[LogEntry, ...]) -> None:
        """They wait no longer."""
        self._uncommitted -= sum(len(entry.data) for entry in entries if entry.term == self.term)

    # --- time ---------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Time passes. False: a majority was not heard from for an election time-out, so step down (6.2)."""
        self._heartbeat_in -= 1
        if self._heartbeat_in <= 0:
            self._heartbeat_in = self._settings.heartbeat_ticks
            self._is_heartbeat_due = True
        for progress in self.progress.values():
            progress.tick(SNAPSHOT_RETRY_TIMEOUTS * self._settings.election_ticks)
        if self.transferring is not None:
            self._transfer_in -= 1
            if self._transfer_in <= 0:
                self.transferring = None  # it did not come about: go on leading (dissertation 3.10)
        self._look_in -= 1
        return self._look_in > 0 or self._has_quorum()

    def _has_quorum(self) -> bool:
        self._look_in = self._settings.election_ticks
        active = [peer for peer, progress in self.progress.items() if progress.is_active]
        for progress in self.progress.values():
            progress.is_active = False
        return raft_conf.has_quorum(self._log.configuration, [self._me, *active])

    # --- answers ------------------------------------------------------------------------------------

    def on_appended(self, message: Appended) -> bool:
        """True if more may be committed now."""
        progress = self._heard(message.source)
        return progress is not None and progress.appended(min(message.match, self._log.last))

    def on_append_refused(self, message: AppendRefused) -> None:
        progress = self._heard(message.source)
        if progress is not None:
            agreed = self._log.last_not_above(message.hint_index, message.hint_term)
            progress.refused(message.previous_index, agreed)

    def on_heartbeat_answer(self, message: HeartbeatAnswer) -> None:
        progress = self._heard(message.source)
        if progress is not None:
            progress.round = max(progress.round, message.round)
            progress.answered_heartbeat(self._log.last)

    def unreachable(self, peer: Peer) -> None:
        progress = self.progress.get(peer)
        if progress is not None and progress.state == SNAPSHOT:
            progress.probe()

    def _heard(self, peer: Peer) -> Progress | None:
        progress = self.progress.get(peer)
        if progress is not None:
            progress.is_active = True
        return progress

    def confirmed_reads(self) -> list[Round]:
        """Rounds that a majority has answered (6.4)."""
        rounds = {peer: progress.round for peer, progress in self.progress.items()}
        return self.reads.confirmed(raft_conf.reached(self._log.configuration, {**rounds, self._me: self.reads.number}))

    def ask(self, ask: Ask) -> None:
        """Raises `QuorumBusy`."""
        self.reads.add(ask)

    # --- handing over -------------------------------------------------------------------------------

    def transfer(self, target: Peer) -> None:
        """No proposals from now on; when `target` has all there is, it is told to stand (dissertation 3.10)."""
        self.transferring = target
        self._transfer_in = self._settings.election_ticks
        self._transfer_sent = False

    def successor(self) -> Peer | None:
        """The voter whose log is the longest."""
        voters = [peer for peer in self.progress if peer in self._log.configuration.voters]
        return max(voters, key=lambda peer: self.progress[peer].match, default=None)

    # --- sending ------------------------------------------------------------------------------------

    def messages(self) -> Iterator[RaftMessage]:
        """All that is due."""
        if self.has_committed and self.reads.begin(self._log.committed):
            self._is_heartbeat_due = True
        if self._is_heartbeat_due:
            self._is_heartbeat_due = False
            yield from self._heartbeats()
        for peer, progress in self.progress.items():
            yield from self._appends(peer, progress)
        target = self.transferring
        if target is not None and not self._transfer_sent and self.progress[target].match == self._log.last:
            self._transfer_sent = True
            yield self.transfer_now(target)

    def transfer_now(self, target: Peer) -> TransferNow:
        return TransferNow(source=self._me, target=target, term=self.term)

    def _heartbeats(self) -> Iterator[RaftMessage]:
        for peer, progress in self.progress.items():
            commit = min(progress.match, self._log.committed)
            yield Heartbeat(source=self._me, target=peer, term=self.term, commit=commit, round=self.reads.number)

    def _appends(self, peer: Peer, progress: Progress) -> Iterator[RaftMessage]:
        log = self._log
        while progress.may_send:
            if progress.next <= log.base:
                progress.sent_snapshot(log.snapshot.index)
                yield InstallSnapshot(source=self._me, target=peer, term=self.term, snapshot=log.snapshot)
                return
            entries = log.between(progress.next - 1, log.last, self._settings.batch_bytes_max)
            if not (entries or progress.is_owed or progress.commit_sent < log.committed):
                return
            previous = progress.next - 1
            progress.sent(entries, log.committed)
            yield Append(
                source=self._me,
                target=peer,
                term=self.term,
                previous_index=previous,
                previous_term=log.term_at(previous),
                entries=entries,
                commit=log.committed,
            )
            if not entries:
                return
