"""What may be said to a coordinator about share groups and queues: see the table in `dduomq.actors.coordinator`."""

from collections.abc import Mapping, Sequence

import attrs

from dduomq.actors.actor import Message
from dduomq.actors.partition_messages import Watcher
from dduomq.errors import DduomqError
from dduomq.groups.queue import Ending, SpanRecord
from dduomq.groups.records import Place
from dduomq.groups.share import ShareBeat


@attrs.frozen(kw_only=True)
class BeatOfShare(Message):
    """A heartbeat of a member of a share group; `wait_ms`: how long the answer may be held.

    `held`: all that it knows to have, where it can't be sure that what it was given has come.
    """

    group: str
    beat: ShareBeat
    wait_ms: int = 0
    held: Mapping[Place, Sequence[tuple[int, int]]] | None = None


@attrs.frozen(kw_only=True)
class NextReads(Message):
    """Where to read what a member may get. `begin`: where queues begin of which nothing is known.

    `watcher` is woken when there may be more to get of any of the places.
    """

    group: str
    member_id: str
    places: tuple[Place, ...]
    begin: Mapping[Place, int] = attrs.field(factory=dict)
    watcher: Watcher | None = None


@attrs.frozen
class Take:
    """The offsets that were read of a place, from `read_at` on; `ends`: of its batches, if none is to be cut."""

    place: Place
    read_at: int
    offsets: range
    ends: Sequence[int] = ()


@attrs.frozen(kw_only=True)
class Acquire(Message):
    """Up to `most` records of all the takes together, for one member. `lock_ms` -1: the group's."""

    group: str
    member_id: str
    takes: tuple[Take, ...]
    most: int
    lock_ms: int = -1


@attrs.frozen(kw_only=True)
class Settle(Message):
    """What a member says of the records it has."""

    group: str
    member_id: str
    parts: tuple[tuple[Place, tuple[Ending, ...]], ...]


@attrs.frozen(kw_only=True)
class ReleaseHeld(Message):
    """A member's way to these places is gone: what it has of them goes to others."""

    group: str
    member_id: str
    places: tuple[Place, ...]


@attrs.frozen(kw_only=True)
class FitQueue(Message):
    """The partition's log has `start` to `end`, and had nothing at `read_at`."""

    group: str
    place: Place
    read_at: int
    start: int
    end: int


@attrs.frozen(kw_only=True)
class LoseRecord(Message):
    """A record can't be read: it is damaged."""

    group: str
    place: Place
    offset: int
    reason: str


@attrs.frozen(kw_only=True)
class DescribeQueues(Message):
    group: str


@attrs.frozen(kw_only=True)
class MoveQueues(Message):
    """Queues of a group without members begin at other offsets; None: nothing is known of them any more."""

    group: str
    starts: Mapping[Place, int | None]


@attrs.frozen(kw_only=True)
class ConfigureQueues(Message):
    """Settings of a group's queues, by their names in `ShareRecord`: None puts back the default, {} asks what is so.

    A group that there is not is made, unless nothing is to be changed.
    """

    group: str
    changes: Mapping[str, str | int | None] = attrs.field(factory=dict)


@attrs.frozen
class ShareBeaten:
    """`assignment` None: as before. `doubts`: records whose lock has expired; the member is to say what of them."""

    member_id: str
    epoch: int
    interval_ms: int
    assignment: frozenset[Place] | None
    doubts: Mapping[Place, Sequence[tuple[int, int]]]


@attrs.frozen
class ReadsFound:
    """`offsets`: None where nothing is to be had now. `unknown`: places that have no queue yet.

    `start`, `lock_ms`: the group's own.
    """

    offsets: Mapping[Place, int | None]
    unknown: tuple[Place, ...]
    start: str
    lock_ms: int


@attrs.frozen
class Acquired:
    """`lock_ms`: how long the locks are."""

    spans: Mapping[Place, tuple[SpanRecord, ...]]
    lock_ms: int


@attrs.frozen
class Settled:
    """`refused`: the parts, by their number, of which nothing was taken, each with why."""

    refused: Mapping[int, DduomqError]
    lock_ms: int


@attrs.frozen
class QueueState:
    """`start`: all before it is done. `end`: all from there on is fresh. `acquired`: records that members have."""

    place: Place
    start: int
    end: int
    in_flight: int
    acquired: int
