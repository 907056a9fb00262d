"""What goes in and out of the machine in `raft.py`, besides messages.

The contract of a `Ready`, in this order: persist `snapshot`, `entries` and `hard_state` with one sync; send `messages`;
restore `snapshot` and apply `committed`; answer `reads`, `lost_reads` and `unknown`; then call `advance`. No message
may leave before the sync: a vote or an `Appended` is a promise that the disk keeps. Messages may get lost, come twice
or in any order. There is one `Ready` at a time; meanwhile `tick`, `step` and `propose` go on.
"""

import attrs

from dduomq.limits import (
    RAFT_APPLY_BYTES_MAX,
    RAFT_BATCH_BYTES_MAX,
    RAFT_ENTRIES_KEPT,
    RAFT_IN_FLIGHT_MAX,
    RAFT_LEARNER_LAG_MAX,
    RAFT_UNCOMMITTED_BYTES_MAX,
)
from dduomq.wire.raft_messages import LogEntry, Peer, RaftMessage, Snapshot

FOLLOWER, PRE_CANDIDATE, CANDIDATE, LEADER = "follower", "pre-candidate", "candidate", "leader"


@attrs.frozen
class Settings:
    """Time is in ticks. An election time-out should be ten times what a slow sync takes, or a slow disk looks dead."""

    election_ticks: int = 10  # and up to twice that, by chance
    heartbeat_ticks: int = 2
    batch_bytes_max: int = RAFT_BATCH_BYTES_MAX
    in_flight_max: int = RAFT_IN_FLIGHT_MAX
    uncommitted_bytes_max: int = RAFT_UNCOMMITTED_BYTES_MAX
    apply_bytes_max: int = RAFT_APPLY_BYTES_MAX
    entries_kept: int = RAFT_ENTRIES_KEPT
    learner_lag_max: int = RAFT_LEARNER_LAG_MAX


@attrs.frozen
class HardState:
    """What a member must know again after a crash (figure 2, "persistent state"). `commit` only saves time."""

    term: int = 0
    vote: Peer | None = None
    commit: int = 0


@attrs.frozen
class Stored:
    """What the disk holds at the start. The entries follow the snapshot without a gap."""

    snapshot: Snapshot
    hard_state: HardState = HardState()
    entries: tuple[LogEntry, ...] = ()


@attrs.frozen
class Proposed:
    """Where a proposal lies. When another term's entry is applied at that index, it is surely lost."""

    term: int
    index: int


@attrs.frozen
class ReadIndex:
    """The read may be served when this index has been applied."""

    context: int
    index: int


@attrs.frozen
class Standing:
    """Who this member is now, and whom it follows."""

    role: str
    term: int
    leader: Peer | None


@attrs.frozen(kw_only=True)
class Ready:
    """What is to be done now. See the head of this file."""

    hard_state: HardState | None  # None: there is nothing to persist
    entries: tuple[LogEntry, ...]  # they replace what the log has from the first one's index on
    snapshot: Snapshot | None  # it replaces the whole log
    messages: tuple[RaftMessage, ...]
    committed: tuple[LogEntry, ...]
    reads: tuple[ReadIndex, ...]
    lost_reads: tuple[int, ...]  # contexts of reads that this leader can't answer any more: ask again
    unknown: tuple[Proposed, ...]  # proposals taken here whose outcome only a later leader decides
    standing: Standing

    @property
    def must_sync(self) -> bool:
        return self.hard_state is not None
