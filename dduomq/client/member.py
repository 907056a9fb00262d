"""One member of a group: what it says in its heartbeats, and what it makes of the answers (KIP-848).

A pure machine. Always true: it claims no partition that it was not given; what it has been told to give up, or has
lost, it no longer claims once its owner has let go; after any doubt it says everything again.
"""

from collections.abc import Iterable
from typing import TypeAlias

import attrs

from dduomq.errors import DduomqError, FencedMemberEpoch, UnknownMember
from dduomq.ids import RETRY
from dduomq.wire.native_groups import (
    JOIN,
    LEAVE,
    LEAVE_FOR_A_WHILE,
    GroupHeartbeat,
    GroupHeartbeatAnswer,
    OwnedPart,
)

Place: TypeAlias = tuple[str, str, int]  # (topic id, topic, partition)
OUT = (FencedMemberEpoch, UnknownMember)


@attrs.frozen(kw_only=True)
class Subscription:
    """What a member wants. Times are milliseconds. `retry`: also what its group has set aside, when it comes again."""

    group: str
    topics: tuple[str, ...]
    pattern: str | None = None
    assignor: str | None = None
    instance_id: str | None = None
    zone: str | None = None
    session_ms: int = 45_000
    rebalance_ms: int = 60_000
    retry: bool = False


@attrs.frozen
class Moves:
    """Partitions to begin with and to give up."""

    assigned: tuple[Place, ...] = ()
    revoked: tuple[Place, ...] = ()


class Membership:
    """See the file's head."""

    __slots__ = ("_is_in_doubt", "_retry_topics", "_said", "epoch", "heartbeat_ms", "member_id", "owned", "wanted")

    def __init__(self, member_id: str, said: Subscription) -> None:
        self.member_id = member_id
        self._said = said
        self.epoch = JOIN
        self.heartbeat_ms = 0
        self.owned: set[Place] = set()  # what is worked on, or not yet given up
        self.wanted: set[Place] = set()  # what the last assignment said
        self._is_in_doubt = True
        self._retry_topics: set[str] = set()

    def beat(self) -> GroupHeartbeat:
        """What to say next."""
        said = self._said
        short = GroupHeartbeat(
            said.group, self.member_id, self.epoch, self.heartbeat_ms, said.session_ms, said.rebalance_ms,
            said.instance_id,
        )  # fmt: skip
        if not self._is_in_doubt and self.epoch != JOIN:
            return short
        return attrs.evolve(
            short, wait_ms=0, zone=said.zone, topics=said.topics, pattern=said.pattern, assignor=said.assignor,
            owned=self._owned_parts(), retry=said.retry,
        )  # fmt: skip

    def _owned_parts(self) -> tuple[OwnedPart, ...]:
        found: dict[str, list[int]] = {}
        for topic_id, _, partition in sorted(self.owned):
            found.setdefault(topic_id, []).append(partition)
        return tuple(OwnedPart(topic_id, tuple(partitions)) for topic_id, partitions in found.items())

    def answered(self, answer: GroupHeartbeatAnswer) -> Moves:
        """What is to be done. The assigned ones are owned from now on, the revoked ones until `released`."""
        self.epoch, self.heartbeat_ms = answer.member_epoch, answer.heartbeat_ms
        self._is_in_doubt = False
        if answer.assignment is None:
            return Moves()
        before = self.wanted
        self._retry_topics = {part.topic_id for part in answer.assignment if part.kind == RETRY}
        self.wanted = {(part.topic_id, part.topic, at) for part in answer.assignment for at in part.partitions}
        assigned = self.wanted - self.owned
        revoked = (before | self.owned) - self.wanted
        self.owned |= assigned
        return Moves(tuple(sorted(assigned)), tuple(sorted(revoked & self.owned)))

    def is_retry(self, topic_id: str) -> bool:
        """Whether that is the group's topic of records that come again."""
        return topic_id in self._retry_topics

    def released(self, places: Iterable[Place]) -> None:
        """They are worked on no more: the next heartbeat says so."""
        self.owned.difference_update(places)
        self._is_in_doubt = True

    def doubt(self) -> None:
        """The next heartbeat says everything again: the broker may have moved on without our knowing."""
        self._is_in_doubt = True

    def failed(self, error: DduomqError) -> bool:
        """True if the group has gone on without it: all is lost, and it joins again. Else it asks again."""
        self._is_in_doubt = True
        if not isinstance(error, OUT):
            return False
        self.lose()
        return True

    def lose(self) -> None:
        """Nothing is ours any more."""
        self.epoch = JOIN
        self.owned.clear()
        self.wanted.clear()
        self._is_in_doubt = True

    def goodbye(self) -> GroupHeartbeat:
        """An instance that has a name keeps its partitions for a session."""
        epoch = LEAVE if self._said.instance_id is None else LEAVE_FOR_A_WHILE
        return GroupHeartbeat(self._said.group, self.member_id, epoch, instance_id=self._said.instance_id)
