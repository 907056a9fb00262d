"""The native protocol's words about queues: frozen values, coded by `dduomq.wire.native`.

A member of a share group makes its own id, joins with epoch 0 and keeps one heartbeat under way, as in
`dduomq.wire.native_groups`. It takes records, has each for as long as the lock is, and says what became of it. Always
true: a record that was given out is stored as given out; an answer to what was said of records rests on what is stored.
"""

import attrs

from dduomq.wire.native_groups import AssignedPart

GAP, ACCEPT, RELEASE, REJECT, RENEW, RETURN = 0, 1, 2, 3, 4, 5


@attrs.frozen
class HeldPart:
    """Ranges of records of one partition: (first, last) of each."""

    topic_id: str
    partition: int
    ranges: tuple[tuple[int, int], ...]


@attrs.frozen
class QueueHeartbeat:
    """`topics`, `zone` None, and a number of -1: as before.

    `deliveries`: how often the group gives out a record at most. `held`: all that the member knows to have, where
    something that was given to it may have been lost on its way: that goes to others.
    """

    group: str
    member_id: str
    member_epoch: int
    wait_ms: int = 0
    session_ms: int = -1
    topics: tuple[str, ...] | None = None
    zone: str | None = None
    deliveries: int = -1
    held: tuple[HeldPart, ...] | None = None


@attrs.frozen
class QueueHeartbeatAnswer:
    """`assignment` None: as before. `doubts`: records whose lock has expired; the member is to say what of them."""

    member_epoch: int
    heartbeat_ms: int
    assignment: tuple[AssignedPart, ...] | None
    doubts: tuple[HeldPart, ...] = ()


@attrs.frozen
class TakePart:
    topic_id: str
    topic: str
    partition: int


@attrs.frozen
class TakeRecords:
    """Up to `max_records` of all the parts together. `start`: where a queue begins that is not known yet, "earliest",
    "latest" or milliseconds since 1970.
    """

    group: str
    member_id: str
    parts: tuple[TakePart, ...]
    max_records: int
    max_bytes: int
    max_wait_ms: int
    lock_ms: int = -1
    start: str | None = None


@attrs.frozen
class TakenPart:
    """`spans`: (first, last, deliveries) of the records that are the member's now; the batches may hold others, too."""

    topic_id: str
    topic: str
    partition: int
    code: int
    message: str | None
    spans: tuple[tuple[int, int, int], ...]
    size: int


@attrs.frozen
class RecordsTaken:
    """Those parts of which there is something to say; their batches follow one another in the payload."""

    lock_ms: int
    parts: tuple[TakenPart, ...]


@attrs.frozen
class RecordEnding:
    """`kind`: GAP, there is no such record; ACCEPT; RELEASE, for others after `ms`; REJECT; RENEW, the lock is to be
    `ms` long from now on; RETURN, nobody has begun to work on it. `count`: which delivery it is about, 0: the last one.
    """

    first: int
    last: int
    kind: int
    ms: int = 0
    reason: str = ""
    count: int = 0


@attrs.frozen
class SettlePart:
    """All of it is taken, or nothing."""

    topic_id: str
    partition: int
    endings: tuple[RecordEnding, ...]


@attrs.frozen
class SettleRecords:
    group: str
    member_id: str
    parts: tuple[SettlePart, ...]


@attrs.frozen
class SettledPart:
    code: int
    message: str | None


@attrs.frozen
class RecordsSettled:
    """In the order of the parts that were asked for."""

    parts: tuple[SettledPart, ...]


@attrs.frozen
class DescribeQueue:
    """How far a group is with its queues."""

    group: str


@attrs.frozen
class MoveQueue:
    """A group without members goes on elsewhere: (partition, offset) of each; -1: nothing is known of it any more."""

    group: str
    topic: str
    starts: tuple[tuple[int, int], ...]


@attrs.frozen
class QueuePart:
    """All before `start` is done, all from `end` on is fresh; between, `waiting` are to be given out again."""

    topic: str
    partition: int
    start: int
    end: int
    acquired: int
    waiting: int


@attrs.frozen
class QueueDescription:
    deliveries: int
    lock_ms: int
    parts: tuple[QueuePart, ...]
