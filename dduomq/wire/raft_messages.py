"""The words of the metadata quorum: who takes part, what the log holds, what members say to each other.

Frozen values, coded by `dduomq.wire.raft`; their rules are in `dduomq/cluster/raft.py`. Always true: a message names
both ends by node and directory, so that a node whose disk was replaced is never taken for the one that promised
something; `term` is the sender's own, but for a pre-vote and its grant, where it is the term that would come next.

Sources: "In Search of an Understandable Consensus Algorithm" (Ongaro, Ousterhout, 2014), figure 2; Ongaro's
dissertation "Consensus: Bridging Theory and Practice" (2014), by chapter.
"""

from typing import TypeAlias

import attrs


@attrs.frozen(order=True)
class Peer:
    """One member: a node with one directory. The same node with another disk is another member (KIP-853)."""

    node: int
    directory: str

    def __str__(self) -> str:
        return f"{self.node}@{self.directory}"


@attrs.frozen
class Configuration:
    """Who has a vote and who only listens, each sorted (dissertation 4.1, 4.2.1)."""

    voters: tuple[Peer, ...] = ()
    learners: tuple[Peer, ...] = ()

    @property
    def members(self) -> tuple[Peer, ...]:
        return self.voters + self.learners


@attrs.frozen
class LogEntry:
    """A command, or a configuration, or neither: the empty entry that a leader begins its term with."""

    index: int
    term: int
    data: bytes = b""
    configuration: Configuration | None = None


@attrs.frozen
class Snapshot:
    """The state machine as it was when the entry at `index` had been applied, and who took part then."""

    index: int
    term: int
    configuration: Configuration
    data: bytes = b""


@attrs.frozen(kw_only=True)
class Message:
    """What all messages say."""

    source: Peer
    target: Peer
    term: int


@attrs.frozen(kw_only=True)
class PreVote(Message):
    """Would you vote for me? Nobody's term changes (dissertation 9.6)."""

    last_index: int
    last_term: int


@attrs.frozen(kw_only=True)
class PreVoteAnswer(Message):
    is_granted: bool


@attrs.frozen(kw_only=True)
class Vote(Message):
    """RequestVote (figure 2). `is_transfer`: the leader itself wants it, so its lease is no hindrance (4.2.3)."""

    last_index: int
    last_term: int
    is_transfer: bool = False


@attrs.frozen(kw_only=True)
class VoteAnswer(Message):
    is_granted: bool


@attrs.frozen(kw_only=True)
class Append(Message):
    """AppendEntries (figure 2): the entries behind the previous one, and how far the leader has committed."""

    previous_index: int
    previous_term: int
    entries: tuple[LogEntry, ...] = ()
    commit: int


@attrs.frozen(kw_only=True)
class Appended(Message):
    """Up to `match` my log is yours, and on my disk."""

    match: int


@attrs.frozen(kw_only=True)
class AppendRefused(Message):
    """I have no such entry at `previous_index`; from `hint_index`, of `hint_term`, on down we may agree (5.3)."""

    previous_index: int
    hint_index: int
    hint_term: int


@attrs.frozen(kw_only=True)
class Heartbeat(Message):
    """I lead. `commit` is no more than what the follower is known to have; `round` counts for reads (6.4)."""

    commit: int
    round: int


@attrs.frozen(kw_only=True)
class HeartbeatAnswer(Message):
    round: int


@attrs.frozen(kw_only=True)
class InstallSnapshot(Message):
    """What you lack is no longer in my log (section 7). Answered with `Appended`."""

    snapshot: Snapshot


@attrs.frozen(kw_only=True)
class ReadAsk(Message):
    """A follower wants to read: which index must it have applied (6.4)? `context` is its own, never used again."""

    context: int


@attrs.frozen(kw_only=True)
class ReadAnswer(Message):
    context: int
    index: int


@attrs.frozen(kw_only=True)
class TransferNow(Message):
    """Stand for election at once (TimeoutNow, dissertation 3.10)."""


RaftMessage: TypeAlias = (
    PreVote | PreVoteAnswer | Vote | VoteAnswer | Append | Appended | AppendRefused | Heartbeat | HeartbeatAnswer
    | InstallSnapshot | ReadAsk | ReadAnswer | TransferNow
)  # fmt: skip
