"""What the quorum's actor is told and asked, and what it lets others see."""

from collections.abc import Callable, Sequence

import attrs
import trio

from dduomq.actors.actor import Message
from dduomq.cluster.ports import Changed, MetadataUnavailable
from dduomq.cluster.quorum_state import QuorumState
from dduomq.cluster.raft_ready import FOLLOWER, Standing
from dduomq.cluster.wal import Recovered, Wal
from dduomq.errors import DduomqError
from dduomq.wire.cluster_errors import NotFormed as NotFormed
from dduomq.wire.cluster_errors import QuorumOffline as QuorumOffline
from dduomq.wire.raft_messages import Configuration, RaftMessage, Snapshot

OPENING, WAITING, RUNNING, OFFLINE = "opening", "waiting", "running", "offline"


@attrs.frozen
class OpenedMember:
    """What lies in a member's directory."""

    wal: Wal
    recovered: Recovered
    member_id: str


@attrs.frozen(kw_only=True)
class Opened(Message):
    """The directory was read, or `result` says why not. `by` is the incarnation that asked, as in the next ones."""

    by: object
    result: object


@attrs.frozen(kw_only=True)
class Saved(Message):
    """What was to be kept is on the disk, or `result` is the error."""

    by: object
    result: object


@attrs.frozen(kw_only=True)
class Encoded(Message):
    """The state as it was at `index`, as bytes."""

    by: object
    index: int
    result: object


@attrs.frozen(kw_only=True)
class Begin(Message):
    """Found the cluster with this snapshot, or, without one, wait for that cluster's leader to send what there is."""

    cluster_id: str
    snapshot: Snapshot | None


@attrs.frozen(kw_only=True)
class QuorumTick(Message):
    """Time passes."""


@attrs.frozen(kw_only=True)
class Stepped(Message):
    """Messages of another member."""

    messages: tuple[RaftMessage, ...]


@attrs.frozen(kw_only=True)
class Propose(Message):
    """Answered with the `Outcome` when the command was applied."""

    data: bytes


@attrs.frozen(kw_only=True)
class AskRead(Message):
    """Answered when this node's state is no older than the question."""

    ticks: int


@attrs.frozen(kw_only=True)
class BeatCame(Message):
    """A node's session goes on. Answered with a `BeatAnswer`."""

    session: int


@attrs.frozen(kw_only=True)
class AskChange(Message):
    """Answered with the index of the change when it is committed; `kind` as in `ChangeMember`."""

    kind: str
    node: int
    directory: str


@attrs.frozen(kw_only=True)
class HandOver(Message):
    """A leader is about to stop: the voter that has most of the log leads next. Answered with whether there is one."""


class QuorumView:
    """What the actor lets others of its node see; it outlives the actor's restarts. Only the actor changes it."""

    def __init__(self) -> None:
        self.lifecycle = OPENING
        self.reason = "its log is being read"
        self.state = QuorumState()
        self.standing = Standing(FOLLOWER, 0, None)
        self.configuration = Configuration()
        self.applied = 0
        self.opened = trio.Event()
        self.error: DduomqError | None = None  # why it could not be opened the first time
        self._changed = trio.Event()
        self._listeners: list[Callable[[Sequence[Changed] | None], None]] = []

    def refusal(self) -> MetadataUnavailable:
        """Why nothing can be asked of this member now."""
        kind = NotFormed if self.lifecycle == WAITING else QuorumOffline
        return kind(f"the metadata can't be used on this node: {self.reason}")

    def listen(self, listener: Callable[[Sequence[Changed] | None], None]) -> None:
        """To be called with what was applied; None: the state is another one altogether."""
        self._listeners.append(listener)

    def tell(self, changes: Sequence[Changed] | None) -> None:
        for listener in self._listeners:
            listener(changes)

    def pulse(self) -> None:
        """Sessions, lifecycle or members have changed."""
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        await self._changed.wait()

    def is_over(self, session: int) -> bool:
        """Whether that session has surely ended: what made it is applied, and it is not there."""
        return session not in self.state.sessions and self.applied >= session > 0
