"""The native protocol's words about groups and pushing: frozen values, coded by `dduomq.wire.native`.

A member makes its own id, joins with epoch 0 and keeps one heartbeat under way: the coordinator holds the answer
until there is something new or `wait_ms` is over. Always true: who answers with an assignment has stored it; a
partition is in the assignment of one member at a time.
"""

import attrs

JOIN, LEAVE, LEAVE_FOR_A_WHILE = 0, -1, -2


@attrs.frozen
class OwnedPart:
    """Partitions of one topic, by its id."""

    topic_id: str
    partitions: tuple[int, ...]


@attrs.frozen
class AssignedPart:
    """Partitions of one topic that are the member's. `kind`: "retry" of that for records which come again."""

    topic_id: str
    topic: str
    partitions: tuple[int, ...]
    kind: str = ""


@attrs.frozen
class GroupHeartbeat:
    """A member joins, lives, or leaves (KIP-848).

    `member_epoch`: JOIN, LEAVE, LEAVE_FOR_A_WHILE (an instance that comes back), or the last one answered.
    `topics`, `pattern`, `assignor`, `owned`: None, and -1 of a time: as before. `owned` is what the member holds
    now: a partition that was taken from its assignment is free for others once it is missing there. `retry`: it wants
    the records that its group has set aside, too, when they come again; counts where `topics` does.
    """

    group: str
    member_id: str
    member_epoch: int
    wait_ms: int = 0
    session_ms: int = -1
    rebalance_ms: int = -1
    instance_id: str | None = None
    zone: str | None = None
    topics: tuple[str, ...] | None = None
    pattern: str | None = None
    assignor: str | None = None
    owned: tuple[OwnedPart, ...] | None = None
    retry: bool = False


@attrs.frozen
class GroupHeartbeatAnswer:
    """`assignment` None: as before. The next heartbeat is due within `heartbeat_ms`."""

    member_epoch: int
    heartbeat_ms: int
    assignment: tuple[AssignedPart, ...] | None


@attrs.frozen
class CommitPart:
    """`offset` is that of the next record to be read. `topic_id`: not for another topic that has the name now."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    topic_id: str | None = None


@attrs.frozen
class CommitOffsets:
    """`member_id` empty and `member_epoch` -1: from somebody who is no member, taken while the group has none.

    `rewind` lets offsets move back; without it that is refused.
    """

    group: str
    member_id: str
    member_epoch: int
    parts: tuple[CommitPart, ...]
    rewind: bool = False


@attrs.frozen
class CommittedPart:
    code: int
    message: str | None


@attrs.frozen
class OffsetsCommitted:
    """In the order of the parts that were asked for."""

    parts: tuple[CommittedPart, ...]


@attrs.frozen
class FetchCommitted:
    """What the group has committed; `topics` None means all."""

    group: str
    topics: tuple[str, ...] | None = None


@attrs.frozen
class GroupOffset:
    topic: str
    partition: int
    offset: int
    leader_epoch: int
    metadata: str
    commit_ms: int


@attrs.frozen
class GroupAside:
    """Records behind the committed offset that were set aside: first and last of each range in turn."""

    topic: str
    partition: int
    ranges: tuple[int, ...]


@attrs.frozen
class GroupOffsets:
    """Only partitions that have a committed offset; and those of which something was set aside."""

    offsets: tuple[GroupOffset, ...]
    aside: tuple[GroupAside, ...] = ()


@attrs.frozen
class ForgetOffsets:
    """Delete committed offsets of one topic; `partitions` None: all of them. Refused while members read it."""

    group: str
    topic: str
    partitions: tuple[int, ...] | None = None


@attrs.frozen
class ListGroups:
    """All groups that the asker may see."""


@attrs.frozen
class GroupListing:
    """`kind`: classic or consumer; `state` in Kafka's words."""

    name: str
    kind: str
    state: str
    members: int


@attrs.frozen
class GroupsListed:
    groups: tuple[GroupListing, ...]


@attrs.frozen
class DescribeGroup:
    """`since` and `wait_ms`: hold the answer until the group's version is another, or the time is over."""

    group: str
    since: int = -1
    wait_ms: int = 0


@attrs.frozen
class GroupMember:
    """`state`: stable, or what it is waiting for."""

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    zone: str | None
    epoch: int
    state: str
    topics: tuple[str, ...]
    assignment: tuple[AssignedPart, ...]


@attrs.frozen
class GroupDescription:
    name: str
    kind: str
    state: str
    epoch: int
    assignor: str
    members: tuple[GroupMember, ...]
    version: int = 0


@attrs.frozen
class DeleteGroup:
    """Forget an empty group and its offsets."""

    group: str


@attrs.frozen
class RemoveMember:
    """Put a member out of its group, as if it had left."""

    group: str
    member_id: str


@attrs.frozen
class Push:
    """Send one partition's records from `offset` on, as they come, while there are credits.

    Every answer has this request's correlation and is a `Pushed` with its batches as payload; an error ends the
    stream. It goes out while more than 0 credits are left, and costs `Pushed.cost` of them. `topic_id`: not of another
    topic that has the name now.
    """

    topic: str
    partition: int
    offset: int
    credits: int
    max_bytes: int = 1024 * 1024
    isolation: int = 1
    leader_epoch: int = -1
    filter: str | None = None
    topic_id: str | None = None


@attrs.frozen
class Pushed:
    """`size` bytes of payload; `cost` credits were taken, to be given back as their records are done with."""

    cost: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    size: int
    aborted: tuple[tuple[int, int], ...] = ()


@attrs.frozen
class Credit:
    """Give credits back to a stream; -1 ends it. Has no answer."""

    stream: int
    credits: int
