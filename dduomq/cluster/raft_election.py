"""Who leads: terms, the vote, the election clock (paper section 5.2, dissertation chapters 3 and 4).

Pure; the lower half of the machine in `raft.py`, where its invariants stand. A member asks for votes first without
obligation (9.6), and gives none while it hears a leader (4.2.3), but for one whom that leader wants (3.10).
"""

from collections import deque

from dduomq.cluster import raft_conf
from dduomq.cluster.raft_leader import Leadership
from dduomq.cluster.raft_log import RaftLog
from dduomq.cluster.raft_ready import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE, Proposed, Settings, Standing, Stored
from dduomq.errors import InvariantBroken
from dduomq.limits import RAFT_MESSAGES_MAX
from dduomq.ports import Rng
from dduomq.wire.raft_messages import (
    Append,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    LogEntry,
    Peer,
    PreVote,
    PreVoteAnswer,
    RaftMessage,
    Vote,
    VoteAnswer,
)

FROM_A_LEADER = Append | Heartbeat | InstallSnapshot


class Elector:
    """One member, as far as elections go."""

    def __init__(self, me: Peer, stored: Stored, rng: Rng, settings: Settings) -> None:
        self.me = me
        self.settings = settings
        self.log = RaftLog(stored)
        self.term = max(stored.hard_state.term, self.log.last_term)
        self.vote = stored.hard_state.vote if self.term == stored.hard_state.term else None
        self.role = FOLLOWER
        self.leader: Peer | None = None
        self.leadership: Leadership | None = None
        self._rng = rng
        self._votes: dict[Peer, bool] = {}
        self._elapsed = 0  # ticks since the election clock was set
        self._silence = 0  # ticks since the leader was heard
        self._timeout = self._draw_timeout()
        self._messages: deque[RaftMessage] = deque(maxlen=RAFT_MESSAGES_MAX)
        self._lost_reads: list[int] = []
        self._unknown: list[Proposed] = []

    @property
    def standing(self) -> Standing:
        return Standing(self.role, self.term, self.leader)

    def tick(self) -> None:
        """Time passes."""
        if self.leadership is not None:
            if not self.leadership.tick():
                self._follow(self.term, None)
            return
        self._silence += 1
        self._elapsed += 1
        if self._elapsed >= self._timeout:
            if self._may_stand():
                self._stand(PRE_CANDIDATE)
            else:
                self.leader = None
                self._set_clock()

    def _send(self, message: RaftMessage) -> None:
        self._messages.append(message)

    # --- the clock and the term ---------------------------------------------------------------------

    def _draw_timeout(self) -> int:
        """Between one and two election time-outs, so that seldom two stand at once (9.3)."""
        return self._rng.randrange(self.settings.election_ticks, 2 * self.settings.election_ticks)

    def _set_clock(self) -> None:
        self._elapsed, self._timeout = 0, self._draw_timeout()

    def _hears_leader(self) -> bool:
        """Whether there is a leader, or has been within the shortest election time-out (4.2.3)."""
        return self.leader is not None and (self.leadership is not None or self._silence < self.settings.election_ticks)

    def _rise(self, message: RaftMessage) -> bool:
        """A message of a later term; False: leave it alone."""
        if isinstance(message, PreVote | Vote):
            is_wanted = isinstance(message, Vote) and message.is_transfer
            if self._hears_leader() and not is_wanted:
                return False
        if isinstance(message, PreVote) or (isinstance(message, PreVoteAnswer) and message.is_granted):
            return True  # of a term that has not begun
        self._follow(message.term, message.source if isinstance(message, FROM_A_LEADER) else None)
        return True

    def _answer_from_the_future(self, message: RaftMessage) -> None:
        """Who lags behind learns of this term, or it would neither lead nor stand ever again (9.6)."""
        if isinstance(message, FROM_A_LEADER):
            self._send(HeartbeatAnswer(source=self.me, target=message.source, term=self.term, round=0))
        elif isinstance(message, PreVote):
            self._send(PreVoteAnswer(source=self.me, target=message.source, term=self.term, is_granted=False))

    def _follow(self, term: int, leader: Peer | None) -> None:
        """Be a follower, of the leader of this term if it is known."""
        if self.leadership is not None:
            self._name_the_unknown(self.leadership)
        if term > self.term:
            self.term, self.vote = term, None
        self.role, self.leader, self.leadership = FOLLOWER, leader, None
        self._votes.clear()
        self._silence = 0
        self._set_clock()

    def _name_the_unknown(self, leadership: Leadership) -> None:
        """What this leader took and has not committed is for the next one to decide."""
        waiting = self.log.entries(max(self.log.committed, leadership.first), self.log.last)
        self._unknown += [Proposed(entry.term, entry.index) for entry in waiting]
        self._lost_reads += [ask.context for ask in leadership.reads.asks if ask.peer == self.me]

    def _hear(self, leader: Peer) -> None:
        """The leader of this term has spoken."""
        if self.leadership is not None or self.leader not in {None, leader}:
            raise InvariantBroken(f"term {self.term} has two leaders, {self.leader} and {leader}")
        if self.role != FOLLOWER or self.leader is None:
            self._follow(self.term, leader)
        self._silence = self._elapsed = 0

    # --- standing for election ----------------------------------------------------------------------

    def _may_stand(self) -> bool:
        """Whether this member has a vote, or had one until a removal that is not known to be committed (figure 4.6)."""
        log = self.log
        return self.me in log.configuration.voters or self.me in log.configuration_at(log.committed).voters

    def _stand(self, role: str, *, is_transfer: bool = False) -> None:
        """Ask for votes, first without obligation (9.6), then for good (5.2)."""
        self.role, self.leader = role, None
        self._set_clock()
        if role == CANDIDATE:
            self.term, self.vote = self.term + 1, self.me
            self._votes = {}  # the own vote counts when it is on the disk
        else:
            self._votes = {self.me: True}
            if self._count_votes():
                return
        for voter in self.log.configuration.voters:
            if voter != self.me:
                self._ask_for_vote(voter, role, is_transfer=is_transfer)

    def _ask_for_vote(self, voter: Peer, role: str, *, is_transfer: bool) -> None:
        last, last_term = self.log.last, self.log.last_term
        if role == CANDIDATE:
            self._send(Vote(
                source=self.me, target=voter, term=self.term,
                last_index=last, last_term=last_term, is_transfer=is_transfer,
            ))  # fmt: skip
        else:
            self._send(
                PreVote(source=self.me, target=voter, term=self.term + 1, last_index=last, last_term=last_term)
            )  # fmt: skip

    def _on_vote_asked(self, message: PreVote | Vote) -> None:
        """Figure 2, RequestVote; whoever asks may be a voter in a configuration that is not known here yet (4.1)."""
        is_free = self.vote == message.source or (self.vote is None and self.leader is None)
        is_free = is_free or (isinstance(message, PreVote) and message.term > self.term)
        is_granted = is_free and self.log.is_up_to_date(message.last_index, message.last_term)
        if isinstance(message, PreVote):
            term = message.term if is_granted else self.term
            self._send(PreVoteAnswer(source=self.me, target=message.source, term=term, is_granted=is_granted))
            return
        if is_granted:
            self.vote = message.source
            self._set_clock()
        self._send(VoteAnswer(source=self.me, target=message.source, term=self.term, is_granted=is_granted))

    def _own_vote_is_stored(self) -> None:
        """It counts only now, or a lone voter that crashes could lead twice in one term, with two logs."""
        if self.role == CANDIDATE and self.me not in self._votes:
            self._votes[self.me] = True
            self._count_votes()

    def _on_vote_answer(self, message: PreVoteAnswer | VoteAnswer) -> None:
        if isinstance(message, VoteAnswer):
            is_asked = self.role == CANDIDATE
        else:  # a grant is of the term that would come next
            is_asked = self.role == PRE_CANDIDATE and message.term == self.term + message.is_granted
        if is_asked:
            self._votes.setdefault(message.source, message.is_granted)
            self._count_votes()

    def _count_votes(self) -> bool:
        """Whether that was enough."""
        configuration = self.log.configuration
        if raft_conf.has_quorum(configuration, [peer for peer, granted in self._votes.items() if granted]):
            if self.role == PRE_CANDIDATE:
                self._stand(CANDIDATE)
            else:
                self._lead()
            return True
        refusing = [peer for peer in configuration.voters if self._votes.get(peer) is False]
        if len(refusing) > len(configuration.voters) - raft_conf.quorum(configuration):
            self._follow(self.term, None)
        return False

    def _lead(self) -> None:
        """The term is won; its first entry commits all before it (5.4.2, 6.4)."""
        self.role, self.leader = LEADER, self.me
        self.leadership = Leadership(self.me, self.term, self.log, self.settings)
        self.log.append([LogEntry(self.log.last + 1, self.term)])
