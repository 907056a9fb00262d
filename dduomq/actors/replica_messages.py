"""What the replicas of a partition, and those that serve them, say to its actors."""

from collections.abc import Mapping
from typing import Protocol

import attrs

from dduomq.actors.actor import Mailbox, Message
from dduomq.actors.partition_messages import Fetch
from dduomq.cluster.image import PartitionRecord
from dduomq.errors import DduomqError
from dduomq.replica.leader import Standing


class NotAReplica(DduomqError):
    """A node asks for the records of a partition that it keeps no replica of, as far as its leader knows."""

    code = 1170
    retriable = True


@attrs.frozen(kw_only=True)
class Assign(Message):
    """The partition's record as the metadata has it, with the version of its key. An older one is ignored."""

    record: PartitionRecord
    version: int


@attrs.frozen(kw_only=True)
class ReplicaFetch(Fetch):
    """A follower asks for what comes behind `offset`, up to the end of the log; all before it is safe there.

    `follower_epoch`: of its node, the version of its key. `isolation` means nothing here. `standing`: how long it
    waits, if nothing is there; see `dduomq.replica.leader.Standing`.
    """

    follower: int
    follower_epoch: int
    isolation: int = 0
    log_start_offset: int = 0
    standing: Standing | None = None


@attrs.frozen(kw_only=True)
class Replicate(Message):
    """What the leader of `leader_epoch` answered to a fetch from `offset`. The answer is a `FollowerAt`."""

    leader_epoch: int
    offset: int
    data: memoryview
    high_watermark: int
    log_start_offset: int
    log_end_offset: int
    diverging: tuple[int, int] | None = None


@attrs.frozen
class FollowerAt:
    """Where a follower goes on, with the leader epoch of its last record, and where its log begins."""

    offset: int
    last_epoch: int
    log_start_offset: int = 0


@attrs.frozen(kw_only=True)
class RecordWritten(Message):
    """What became of a change: the newest record and its version; None: nothing was changed, and nobody knows more."""

    serial: int
    record: PartitionRecord | None
    version: int


@attrs.frozen(kw_only=True)
class CheckReplicas(Message):
    """Look for followers that have been behind for too long."""


@attrs.frozen
class Following:
    """A partition that wants what `leader` has from `offset` on."""

    mailbox: Mailbox
    topic_id: str
    partition: int
    leader: int
    leader_epoch: int
    offset: int
    last_epoch: int
    log_start_offset: int = 0


@attrs.frozen
class Change:
    """`record` is to replace the one of `version`, if those nodes still have those epochs."""

    mailbox: Mailbox
    serial: int
    record: PartitionRecord
    version: int
    epochs: Mapping[int, int]


class Follows(Protocol):
    """Who fetches from the leaders."""

    def follow(self, following: Following) -> None:
        """From now on, and instead of what was asked for this partition before."""

    def unfollow(self, mailbox: Mailbox) -> None: ...


class Changes(Protocol):
    """Who writes records of partitions."""

    def propose(self, change: Change) -> None:
        """Answered with one `RecordWritten`, when the outcome is certain."""

    def lead(self, mailbox: Mailbox) -> None:
        """Send it `CheckReplicas` from now on."""

    def unlead(self, mailbox: Mailbox) -> None: ...
