"""Taking records of queues: read what may be had, get what of it is to be ours, or wait until there is something.

Always true: what is given out was acquired for the member first, and that is stored. Who finds nothing is woken by a
partition's next append, by the coordinator, or by the end of his time; of partitions and coordinators on other nodes
nobody wakes him, and he looks again after `door.LOOK_AGAIN_S`.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import attrs
import trio

from dduomq.actors.actor import Mailbox, Reply, ask
from dduomq.actors.coordinator_queue_messages import (
    Acquire,
    Acquired,
    FitQueue,
    LoseRecord,
    NextReads,
    ReadsFound,
    Take,
)
from dduomq.actors.partition_messages import (
    EARLIEST,
    LATEST,
    Describe,
    FetchPlan,
    OffsetAt,
    PartitionState,
    Watcher,
)
from dduomq.errors import CorruptMessage, DduomqError, InvalidRequest, LeaderNotAvailable, OffsetOutOfRange
from dduomq.groups.queue import SpanRecord
from dduomq.groups.records import Place
from dduomq.ids import RETRY
from dduomq.limits import FETCH_WAIT_MS_MAX, MIB
from dduomq.listeners.admit import Context
from dduomq.listeners.fetch import Found, OffsetWish, Wanted, Wish, ask_all, find_offsets, make_resident
from dduomq.listeners.services import Services
from dduomq.wire.batch import iter_headers

PLACE_BYTES_MAX = MIB  # read of one partition at once
WINDOW = 5  # times as many records as are wanted are looked at, for others take some of them meanwhile
READ_UNCOMMITTED = 0


@attrs.frozen
class Spot:
    """One partition. Its topic is the one of this id, or none."""

    topic: str
    topic_id: str
    partition: int

    @property
    def place(self) -> Place:
        return self.topic_id, self.partition


@attrs.frozen
class TakeWish:
    """`most` records of all `spots`, the first ones first. `start`: "earliest", "latest" or None for the group's own.

    `whole_batches`: rather more than `most` than a batch in pieces. `lock_ms` -1: the group's own.
    """

    group: str
    member_id: str
    spots: Sequence[Spot]
    most: int
    max_bytes: int
    max_wait_ms: int
    lock_ms: int = -1
    start: str | None = None
    whole_batches: bool = False


@attrs.frozen
class Taken:
    """Batches, and which of their records are the member's."""

    data: bytes
    spans: tuple[SpanRecord, ...]


Result: TypeAlias = Mapping[Place, Taken | DduomqError]


async def take(services: Services, context: Context, mailbox: Mailbox, wish: TakeWish) -> tuple[Result, int]:
    """Records or an error for some of the places, after `max_wait_ms` at the latest; how long the locks are."""
    deadline = services.clock.monotonic() + min(max(wish.max_wait_ms, 0), FETCH_WAIT_MS_MAX) / 1000
    while True:
        watcher = Watcher()
        try:
            reads, errors = await _next_reads(services, context, mailbox, wish, watcher)
            found, has_raced = await _take_once(services, context, mailbox, wish, reads, watcher)
            found.update(errors)
            waiting = deadline - services.clock.monotonic()
            if found or waiting <= 0:
                return found, reads.lock_ms if wish.lock_ms < 0 else wish.lock_ms
            if not has_raced:
                with trio.move_on_after(waiting):
                    await watcher.wait()
        finally:
            watcher.gone = True


async def _next_reads(
    services: Services, context: Context, mailbox: Mailbox, wish: TakeWish, watcher: Watcher
) -> tuple[ReadsFound, dict[Place, DduomqError]]:  # fmt: skip
    """Where to read; queues of which nothing is known yet begin where they should."""
    places = tuple(spot.place for spot in wish.spots)

    def make(begin: Mapping[Place, int], reply: Reply[ReadsFound]) -> NextReads:
        return NextReads(
            group=wish.group, member_id=wish.member_id, places=places, begin=begin, watcher=watcher, reply=reply
        )

    reads: ReadsFound = await ask(mailbox, lambda reply: make({}, reply))
    if not reads.unknown:
        return reads, {}
    unknown = [spot for spot in wish.spots if spot.place in reads.unknown]
    timestamp = start_of(wish.start or reads.start, services.clock.wall_ms())
    table = services.routes.table
    again = {spot.topic for spot in unknown if spot.topic in table and table[spot.topic].record.kind == RETRY}
    times = [EARLIEST if spot.topic in again else timestamp for spot in unknown]
    wishes = [OffsetWish(spot.topic, spot.partition, at) for spot, at in zip(unknown, times, strict=True)]
    begin: dict[Place, int] = {}
    errors: dict[Place, DduomqError] = {}
    for spot, found in zip(unknown, await _find(services, context, wishes), strict=True):
        if isinstance(found, OffsetAt) and found.offset < 0:  # nothing is as late as that
            [found] = await _find(services, context, [OffsetWish(spot.topic, spot.partition, LATEST)])
        if isinstance(found, DduomqError):
            errors[spot.place] = found
        else:
            begin[spot.place] = found.offset
    reads = await ask(mailbox, lambda reply: make(begin, reply))
    return reads, errors


async def _find(services: Services, context: Context, wishes: Sequence[OffsetWish]) -> list[OffsetAt | DduomqError]:
    return await find_offsets(services, context, wishes, READ_UNCOMMITTED, is_anywhere=True)


def start_of(start: str, now_ms: int) -> int:
    """The time that a start means, or one of EARLIEST and LATEST. Raises `InvalidRequest`."""
    if start in {"earliest", "latest"}:
        return EARLIEST if start == "earliest" else LATEST
    try:
        back_ms = int(start.removeprefix("-"))
    except ValueError:
        raise InvalidRequest(f"a queue can't start at {start!r}") from None
    return max(0, now_ms - back_ms if start.startswith("-") else back_ms)


async def _take_once(
    services: Services, context: Context, mailbox: Mailbox, wish: TakeWish, reads: ReadsFound, watcher: Watcher
) -> tuple[dict[Place, Taken | DduomqError], bool]:
    """What can be had now; whether there was something that others were given first."""
    spots = [spot for spot in wish.spots if reads.offsets.get(spot.place) is not None]
    offsets = [at for spot in spots if (at := reads.offsets[spot.place]) is not None]
    size = min(wish.max_bytes, PLACE_BYTES_MAX)
    wanted = [Wanted(spot.topic, spot.partition, at, size) for spot, at in zip(spots, offsets, strict=True)]
    everywhere = Wish(wanted, READ_UNCOMMITTED, 1, wish.max_bytes, 0, is_anywhere=True)
    plans = await ask_all(services, context, everywhere, watcher)
    found: dict[Place, Taken | DduomqError] = {}
    data: dict[Place, memoryview] = {}
    takes: list[Take] = []
    try:
        left = wish.max_bytes
        for spot, read_at, plan in zip(spots, offsets, plans, strict=True):
            try:
                services.routes.check_id(spot.topic, spot.topic_id)
                if isinstance(plan, DduomqError):
                    raise plan
            except OffsetOutOfRange:
                await _fit(services, mailbox, wish.group, spot, read_at)
            except CorruptMessage as error:
                lost = LoseRecord(group=wish.group, place=spot.place, offset=read_at, reason=error.message)
                await mailbox.put(lost)
            except DduomqError as error:
                found[spot.place] = error
            else:
                if plan.lease is not None and (left > 0 or not takes):
                    data[spot.place] = await _read(services, plan)
                    left -= len(data[spot.place])
                    takes.append(_take(spot.place, read_at, data[spot.place], wish))
    finally:
        _close(plans)
    acquired = await _acquire(mailbox, wish, takes) if takes else Acquired({}, 0)
    for place, spans in acquired.spans.items():
        found[place] = Taken(_within(data[place], spans), spans)
    return found, bool(takes)


async def _read(services: Services, plan: FetchPlan) -> memoryview:
    assert plan.lease is not None
    if not plan.is_resident:
        await make_resident(services.disk, plan.lease, plan.position, plan.size)
    return memoryview(plan.lease.read(plan.position, plan.size))


def _close(plans: Sequence[Found]) -> None:
    for plan in plans:
        if isinstance(plan, FetchPlan):
            plan.close()


def _take(place: Place, read_at: int, data: memoryview, wish: TakeWish) -> Take:
    """The offsets of the first batches: of as many as may be needed."""
    ends: list[int] = []
    for _, header in iter_headers(data):
        ends.append(header.last_offset)
        if header.next_offset >= read_at + wish.most * WINDOW:
            break
    stop = ends[-1] + 1 if ends else read_at
    return Take(place, read_at, range(read_at, stop), tuple(ends) if wish.whole_batches else ())


async def _acquire(mailbox: Mailbox, wish: TakeWish, takes: Sequence[Take]) -> Acquired:
    def make(reply: Reply[Acquired]) -> Acquire:
        return Acquire(
            group=wish.group, member_id=wish.member_id, takes=tuple(takes), most=wish.most, lock_ms=wish.lock_ms,
            reply=reply,
        )  # fmt: skip

    return await ask(mailbox, make)


def _within(data: memoryview, spans: Sequence[SpanRecord]) -> bytes:
    """The batches from the one of the first record to the one of the last."""
    begin = end = 0
    for at, header in iter_headers(data):
        if header.last_offset < spans[0].first:
            begin = at + header.size
        if header.base_offset > spans[-1].last:
            break
        end = at + header.size
    return bytes(data[begin:end])


async def _fit(services: Services, mailbox: Mailbox, group: str, spot: Spot, read_at: int) -> None:
    """The log has not what the queue believes."""
    partition = services.routes.anywhere(spot.topic, spot.partition)
    state: PartitionState = await ask(partition, lambda reply: Describe(reply=reply))
    if state.log is None:
        raise LeaderNotAvailable(f"{spot.topic}-{spot.partition} is {state.reason or state.state}")
    start, end = state.log.log_start_offset, state.log.high_watermark
    await mailbox.put(FitQueue(group=group, place=spot.place, read_at=read_at, start=start, end=end))
