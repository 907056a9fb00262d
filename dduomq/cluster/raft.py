"""The Raft machine of the metadata quorum: what happens, goes in by calls; what is to be done, comes out by `ready`.

Pure: no clock (`tick`), no chance but `rng`, no disk and no network; the contract of a `Ready` stands in
`raft_ready.py`. Sources: the Raft paper, by section and figure; Ongaro's dissertation, by chapter; and etcd's raft for
the shape. Always true:

- In one term there is one leader (5.2): a vote is on the disk before it leaves or counts, and a member has one a term.
- A leader never takes out entries of its own log; what is committed is in the log of every later leader (5.4).
- A member that hears a leader helps nobody to depose it (4.2.3, 6.2, 9.6), unless that leader wants it (3.10). What it
  hears counts, not what it is: a member without a vote is deaf to nobody.
- Who is not in its own configuration does not stand, but for one whose removal is not known to be committed: it may be
  the only one that can get it committed (figure 4.6). It gets no vote of its own, and leads no longer than that.
- The configuration is the log's last one, committed or not (4.1). A leader changes it only when the one before is
  committed and an entry of its own term is, too (Ongaro's correction of 2015).
"""

from collections import deque

from dduomq.cluster import raft_conf
from dduomq.cluster.raft_conf import Change, Promote
from dduomq.cluster.raft_election import FROM_A_LEADER, Elector
from dduomq.cluster.raft_leader import Leadership
from dduomq.cluster.raft_reads import Ask
from dduomq.cluster.raft_ready import (
    CANDIDATE,
    FOLLOWER,
    HardState,
    Proposed,
    ReadIndex,
    Ready,
    Settings,
    Standing,
    Stored,
)
from dduomq.cluster.raft_refusals import (
    ChangeUnderWay,
    InvalidChange,
    LeaderHandsOver,
    LearnerBehind,
    NoQuorumLeader,
    NotQuorumLeader,
    ProposalTooLarge,
    QuorumBusy,
)
from dduomq.errors import InvariantBroken
from dduomq.limits import RAFT_PROPOSAL_BYTES_MAX, RAFT_READS_MAX, RAFT_SNAPSHOT_BYTES_MAX
from dduomq.ports import Rng
from dduomq.wire.raft_messages import (
    Append,
    Appended,
    AppendRefused,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    LogEntry,
    Peer,
    PreVote,
    PreVoteAnswer,
    RaftMessage,
    ReadAnswer,
    ReadAsk,
    Snapshot,
    TransferNow,
    Vote,
    VoteAnswer,
)


class Raft(Elector):
    """One member of the quorum. Reads and proposals are refused by the errors of `raft_refusals.py`."""

    def __init__(self, me: Peer, stored: Stored, rng: Rng, settings: Settings | None = None) -> None:
        super().__init__(me, stored, rng, settings or Settings())
        self._saved = stored.hard_state
        self._told = Standing(FOLLOWER, -1, None)
        self._handed: Ready | None = None
        self._reads: deque[ReadIndex] = deque(maxlen=RAFT_READS_MAX)

    # --- what happens -------------------------------------------------------------------------------

    def step(self, message: RaftMessage) -> None:
        """A message has come. One for another directory of this node is not for this member."""
        if message.target != self.me:
            return
        if message.term > self.term:
            if not self._rise(message):
                return
        elif message.term < self.term:
            self._answer_from_the_future(message)
            return
        if isinstance(message, FROM_A_LEADER):
            self._hear(message.source)
        match message:
            case PreVote() | Vote():
                self._on_vote_asked(message)
            case PreVoteAnswer() | VoteAnswer():
                self._on_vote_answer(message)
            case Append():
                self._on_append(message)
            case Heartbeat():
                self.log.commit_to(message.commit)
                self._send(HeartbeatAnswer(source=self.me, target=message.source, term=self.term, round=message.round))
            case InstallSnapshot():
                self._on_snapshot(message)
            case ReadAnswer():
                self._reads.append(ReadIndex(message.context, message.index))
            case TransferNow():
                if self.leadership is None and self._may_stand():
                    self._stand(CANDIDATE, is_transfer=True)
            case _:
                self._on_answer(message)

    def propose(self, data: bytes) -> Proposed:
        """Put a command into the log; refused by name where that can't be, and then it is in no log."""
        if not 0 < len(data) <= RAFT_PROPOSAL_BYTES_MAX:
            raise ProposalTooLarge(f"a command has 1 to {RAFT_PROPOSAL_BYTES_MAX} bytes, this one {len(data)}")
        return self._take(self._leading(), LogEntry(self.log.last + 1, self.term, data))

    def change(self, change: Change) -> Proposed:
        """Change the members, by one (dissertation 4.1). It is in force at once, and for good when it is committed."""
        leadership = self._leading()
        log = self.log
        if not leadership.has_committed or log.configuration_index > log.committed:
            raise ChangeUnderWay("members change one at a time, and a change, or a leader, is not established yet")
        configuration = raft_conf.changed(log.configuration, change)
        if isinstance(change, Promote):
            lag = log.last - leadership.progress[change.peer].match
            if lag > self.settings.learner_lag_max:
                raise LearnerBehind(f"{change.peer} is {lag} entries behind")
        return self._take(leadership, LogEntry(log.last + 1, self.term, configuration=configuration))

    def read(self, context: int) -> None:
        """Ask for the index that a read now must wait for. `context` is never used twice, not even after a restart.

        Its answer comes as `Ready.reads` or `Ready.lost_reads`; a follower's question may be lost: ask again.
        """
        if self.leadership is not None:
            self.leadership.ask(Ask(self.me, context))
        elif self.leader is None:
            raise NoQuorumLeader("the metadata quorum has no leader at the moment; try again")
        else:
            self._send(ReadAsk(source=self.me, target=self.leader, term=self.term, context=context))

    def transfer(self, target: Peer) -> None:
        """Hand over to another voter. Until it stands, or an election time-out has passed, proposals are refused."""
        leadership = self._leading()
        if target == self.me or target not in self.log.configuration.voters:
            raise InvalidChange(f"{target} is no other voter; only one of those can lead next")
        leadership.transfer(target)

    def unreachable(self, peer: Peer) -> None:
        """A snapshot for that member was not delivered."""
        if self.leadership is not None:
            self.leadership.unreachable(peer)

    def compact(self, index: int, data: bytes) -> Snapshot:
        """`data` is the applied state at `index`; entries before it may be forgotten. To be stored by the caller.

        Only for `log.snapshot.index < index <= log.applied`: a leader's snapshot that has just come may be a later one.
        """
        if len(data) > RAFT_SNAPSHOT_BYTES_MAX:
            raise ProposalTooLarge(f"a snapshot has {RAFT_SNAPSHOT_BYTES_MAX} bytes at most, this one {len(data)}")
        return self.log.compact(index, data, self.settings.entries_kept)

    # --- what is to be done -------------------------------------------------------------------------

    def ready(self) -> Ready | None:
        """What is to be done now, None for nothing. `advance` must be called before the next one is asked for."""
        if self._handed is not None:
            raise InvariantBroken("the last Ready is not done yet")
        if self.leadership is not None:
            self._messages.extend(self.leadership.messages())
            self._answer_reads(self.leadership)
            self._leave_if_removed(self.leadership)
        entries, snapshot = self.log.unstable(), self.log.pending
        is_new = (self.term, self.vote) != (self._saved.term, self._saved.vote)
        ready = Ready(
            hard_state=self._hard_state() if is_new or entries or snapshot is not None else None,
            entries=entries,
            snapshot=snapshot,
            messages=tuple(self._messages),
            committed=self.log.to_apply(self.settings.apply_bytes_max),
            reads=tuple(self._reads),
            lost_reads=tuple(self._lost_reads),
            unknown=tuple(self._unknown),
            standing=self.standing,
        )
        if ready.standing == self._told and not (
            ready.must_sync or ready.messages or ready.committed or ready.reads or ready.lost_reads or ready.unknown
        ):
            return None
        for held in (self._messages, self._reads, self._lost_reads, self._unknown):
            held.clear()
        self._handed, self._told = ready, ready.standing
        return ready

    def advance(self) -> None:
        """The last `Ready` is done: it is on the disk, sent and applied."""
        ready, self._handed = self._handed, None
        if ready is None:
            raise InvariantBroken("there is no Ready to be done with")
        self._saved = ready.hard_state or self._saved
        if ready.snapshot is not None:
            self.log.restored(ready.snapshot)
        if ready.entries:
            self.log.stored(ready.entries[-1])
        if ready.committed:
            self.log.applied = max(self.log.applied, ready.committed[-1].index)
        if (self._saved.term, self._saved.vote) == (self.term, self.me):
            self._own_vote_is_stored()
        self._commit()

    def _hard_state(self) -> HardState:
        return HardState(self.term, self.vote, self.log.committed)

    # --- following ----------------------------------------------------------------------------------

    def _on_append(self, message: Append) -> None:
        log, previous = self.log, message.previous_index
        if previous < log.committed:
            self._appended(message.source, log.committed)  # an old one: that far all logs are the same
            return
        if not log.matches(previous, message.previous_term):
            hint = log.last_not_above(previous, message.previous_term)
            self._send(AppendRefused(
                source=self.me, target=message.source, term=self.term,
                previous_index=previous, hint_index=hint, hint_term=max(log.term_at(hint), 0),
            ))  # fmt: skip
            return
        log.append(message.entries)
        last = previous + len(message.entries)
        log.commit_to(min(message.commit, last))
        self._appended(message.source, last)

    def _on_snapshot(self, message: InstallSnapshot) -> None:
        snapshot, log = message.snapshot, self.log
        if snapshot.index > log.committed:
            if log.matches(snapshot.index, snapshot.term):
                log.commit_to(snapshot.index)  # it is all here
            else:
                log.restore(snapshot)
        self._appended(message.source, log.committed)

    def _appended(self, leader: Peer, match: int) -> None:
        self._send(Appended(source=self.me, target=leader, term=self.term, match=match))

    # --- leading ------------------------------------------------------------------------------------

    def _leading(self) -> Leadership:
        if self.leadership is None:
            if self.leader is None:
                raise NoQuorumLeader("the metadata quorum has no leader at the moment; try again")
            raise NotQuorumLeader(f"{self.leader} leads the metadata quorum; ask there")
        if self.leadership.transferring is not None:
            raise LeaderHandsOver(f"the metadata quorum is being handed over to {self.leadership.transferring}")
        return self.leadership

    def _take(self, leadership: Leadership, entry: LogEntry) -> Proposed:
        leadership.take(entry)
        self.log.append([entry])
        if entry.configuration is not None:
            leadership.configure()
        return Proposed(entry.term, entry.index)

    def _on_answer(self, message: RaftMessage) -> None:
        leadership = self.leadership
        if leadership is None:
            return
        match message:
            case Appended():
                if leadership.on_appended(message):
                    self._commit()
            case AppendRefused():
                leadership.on_append_refused(message)
            case HeartbeatAnswer():
                leadership.on_heartbeat_answer(message)
                self._answer_reads(leadership)
            case ReadAsk():
                self._on_read_asked(leadership, message)

    def _commit(self) -> None:
        leadership, before = self.leadership, self.log.committed
        if leadership is not None:
            self.log.commit_to(leadership.committable())
            if self.log.committed > before:
                leadership.committed(self.log.entries(before, self.log.committed))

    def _on_read_asked(self, leadership: Leadership, message: ReadAsk) -> None:
        try:
            leadership.ask(Ask(message.source, message.context))
        except QuorumBusy:
            return  # it asks again

    def _answer_reads(self, leadership: Leadership) -> None:
        for one in leadership.confirmed_reads():
            for ask in one.asks:
                if ask.peer == self.me:
                    self._reads.append(ReadIndex(ask.context, one.index))
                else:
                    self._send(ReadAnswer(
                        source=self.me, target=ask.peer, term=self.term, context=ask.context, index=one.index,
                    ))  # fmt: skip

    def _leave_if_removed(self, leadership: Leadership) -> None:
        """A leader that was removed leads until that is committed and said, then lets go (dissertation 4.2.2)."""
        log = self.log
        if self.me in log.configuration.voters or log.configuration_index > log.committed:
            return
        successor = leadership.successor()
        if successor is not None:
            self._send(leadership.transfer_now(successor))
        self._follow(self.term, None)
