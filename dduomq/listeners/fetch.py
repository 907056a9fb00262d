"""Fetches and offset look-ups: ask the partitions, wait for news if need be, send from the files.

Always true: what is sent was resident when the sending began, so that `sendfile` does not stop the event
loop for the disk; every lease that a partition gave is closed.
"""

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias, TypeVar

import attrs
import trio

from dduomq.actors.actor import Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.partition_messages import MAX_TIMESTAMP, Fetch, FetchPlan, FindOffset, OffsetAt, Watcher
from dduomq.errors import DduomqError, InvalidRequest
from dduomq.limits import FETCH_BYTES_MAX, FETCH_WAIT_MS_MAX, SCAN_CHUNK_BYTES
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.connection import Chunk, Connection, FilePart
from dduomq.listeners.services import Services
from dduomq.listeners.sifting import sift_plan
from dduomq.log.files import Lease
from dduomq.query.filter import Filter, compile_filter
from dduomq.wire import frame, native

INLINE_READ_BYTES_MAX = 64 * 1024
T = TypeVar("T")


@attrs.frozen
class Wanted:
    """What one partition is asked for. -1 where the asker knows no epoch."""

    topic: str
    partition: int
    offset: int
    max_bytes: int
    leader_epoch: int = -1
    last_fetched_epoch: int = -1


@attrs.frozen
class Wish:
    """A whole fetch, whichever protocol it came by. `is_anywhere`: also of what other nodes lead."""

    parts: Sequence[Wanted]
    isolation: int
    min_bytes: int
    max_bytes: int
    max_wait_ms: int
    is_anywhere: bool = False


Found: TypeAlias = FetchPlan | DduomqError


async def fetch(
    services: Services,
    context: Context,
    connection: Connection,
    correlation: int,
    body: native.Fetch,
) -> None:
    """Answer a native fetch, after `max_wait_ms` at the latest."""
    wanted = None if body.filter is None else compile_filter(body.filter)
    parts = [Wanted(p.topic, p.partition, p.offset, p.max_bytes, p.leader_epoch) for p in body.parts]
    wish = Wish(parts, body.isolation, body.min_bytes, body.max_bytes, body.max_wait_ms)
    found = await gather(services, context, wish)
    if wanted is None:
        _answer(connection, correlation, found)
    else:
        await _answer_sifted(services, connection, correlation, found, wanted)


async def gather(services: Services, context: Context, wish: Wish) -> list[Found]:
    """For each part its plan or its error, after `max_wait_ms` at the latest; all that is planned is resident.

    The caller sends the plans' files and closes their leases.
    """
    deadline = services.clock.monotonic() + min(max(wish.max_wait_ms, 0), FETCH_WAIT_MS_MAX) / 1000
    whole = Watcher()
    watchers = [Watcher(whole) for _ in wish.parts]
    try:
        found = await _ask(services, context, wish, list(zip(wish.parts, watchers, strict=True)))
        while (waiting := deadline - services.clock.monotonic()) > 0 and not _is_enough(found, wish.min_bytes):
            _close_all(found)
            with trio.move_on_after(waiting):
                await whole.wait()
            whole.sleep()
            again = [at for at, item in enumerate(found) if watchers[at].is_woken or _has_data(item)]
            for at in again:
                watchers[at].gone = True
                watchers[at] = Watcher(whole)
            asked = await _ask(services, context, wish, [(wish.parts[at], watchers[at]) for at in again])
            for at, item in zip(again, asked, strict=True):
                found[at] = item
    finally:
        for watcher in watchers:
            watcher.gone = True
    found = within(found, min(wish.max_bytes, FETCH_BYTES_MAX))
    try:
        for plan in found:
            if isinstance(plan, FetchPlan) and plan.lease is not None and not plan.is_resident:
                await make_resident(services.disk, plan.lease, plan.position, plan.size)
    except BaseException:
        _close_all(found)
        raise
    return found


async def ask_all(services: Services, context: Context, wish: Wish, watcher: Watcher) -> list[Found]:
    """Each part's plan or error; all of them wake the same watcher."""
    return await _ask(services, context, wish, [(part, watcher) for part in wish.parts])


async def _ask(
    services: Services, context: Context, wish: Wish, parts: Sequence[tuple[Wanted, Watcher]]
) -> list[Found]:  # fmt: skip
    """The plan or the error of each of these. All are asked before the first is awaited."""
    replies: list[Reply[FetchPlan]] = []
    found: list[Found] = []
    try:
        for part, watcher in parts:
            reply: Reply[FetchPlan] = Reply()
            replies.append(reply)
            try:
                services.gate.admit(context, Operation.READ, part.topic)
                find = services.routes.anywhere if wish.is_anywhere else services.routes.partition
                mailbox = find(part.topic, part.partition)
            except DduomqError as error:
                reply.fail(error)
                continue
            message = Fetch(
                offset=part.offset,
                max_bytes=max(0, min(part.max_bytes, wish.max_bytes, FETCH_BYTES_MAX)),
                isolation=wish.isolation,
                leader_epoch=part.leader_epoch,
                watcher=watcher,
                last_fetched_epoch=part.last_fetched_epoch,
                min_bytes=wish.min_bytes,
                reply=reply,
            )
            await mailbox.put(message)
        for reply in replies:
            try:
                found.append(await reply.wait())
            except DduomqError as error:
                found.append(error)
    except BaseException:
        _close_all(found)
        for reply in replies[len(found) :]:
            reply.abandon()
        raise
    return found


def _has_data(item: Found) -> bool:
    return isinstance(item, FetchPlan) and item.size > 0


def _is_enough(found: list[Found], min_bytes: int) -> bool:
    if any(isinstance(item, DduomqError) or item.diverging is not None for item in found) or not found:
        return True
    return sum(item.size for item in found if isinstance(item, FetchPlan)) >= max(min_bytes, 0)


def _close_all(found: list[Found]) -> None:
    for item in found:
        if isinstance(item, FetchPlan):
            item.close()


def within(found: list[Found], max_bytes: int) -> list[Found]:
    """Leave out the plans that would make the answer larger than that; the first always goes."""
    left = max_bytes
    kept: list[Found] = []
    is_first = True
    for item in found:
        if isinstance(item, FetchPlan) and item.size:
            if item.size > left and not is_first:
                item.close()
                kept.append(attrs.evolve(item, lease=None, position=0, size=0, aborted=(), next_offset=-1))
                continue
            left -= item.size
            is_first = False
        kept.append(item)
    return kept


def _part(item: Found) -> native.FetchedPart:
    if isinstance(item, DduomqError):
        return native.FetchedPart(item.code, item.message, -1, -1, -1, 0)
    return native.FetchedPart(
        0,
        None,
        item.high_watermark if item.is_mark_known else native.UNKNOWN_MARK,
        item.last_stable_offset,
        item.log_start_offset,
        item.size,
        item.aborted,
    )


def _answer(connection: Connection, correlation: int, found: list[Found]) -> None:
    plans = [item for item in found if isinstance(item, FetchPlan) and item.lease is not None]
    total = sum(plan.size for plan in plans)
    header = native.answer_header(correlation, native.Fetched(tuple(_part(item) for item in found)))
    chunks: list[Chunk] = [frame.write(header, total)]
    if total <= INLINE_READ_BYTES_MAX:
        for plan in plans:
            assert plan.lease is not None
            chunks.append(plan.lease.read(plan.position, plan.size))
        _close_all(found)
        connection.send(b"".join(chunk for chunk in chunks if not isinstance(chunk, FilePart)))
        return
    chunks += [FilePart(plan.lease, plan.position, plan.size) for plan in plans if plan.lease is not None]
    connection.send_parts(chunks)


async def _answer_sifted(
    services: Services, connection: Connection, correlation: int, found: list[Found], filter: Filter
) -> None:  # fmt: skip
    """Like `_answer`, with only those records that match."""
    parts: list[native.FetchedPart] = []
    data: list[bytes] = []
    try:
        for item in found:
            part = _part(item)
            if isinstance(item, FetchPlan) and item.lease is not None:
                sifted = await sift_plan(services, item, filter)
                data.append(sifted.data)
                part = attrs.evolve(part, size=len(sifted.data))
            parts.append(part)
    finally:
        _close_all(found)
    header = native.answer_header(correlation, native.Fetched(tuple(parts)))
    connection.send(b"".join((frame.write(header, sum(map(len, data))), *data)))


async def make_resident(disk: DiskClient, lease: Lease, position: int, size: int) -> None:
    """Wait until the range is in the page cache; cold ranges are read in by a disk thread."""
    if lease.is_resident(position, size):
        return
    done = trio.Event()
    disk.submit(partial(_read_through, lease, position, size), lambda _result: done.set())
    with trio.CancelScope(shield=True):
        await done.wait()


def _read_through(lease: Lease, position: int, size: int) -> None:
    end = position + size
    while position < end:
        lease.read(position, min(SCAN_CHUNK_BYTES, end - position))
        position += SCAN_CHUNK_BYTES


@attrs.frozen
class OffsetWish:
    """`timestamp_ms`: a time, or one of EARLIEST, LATEST, MAX_TIMESTAMP."""

    topic: str
    partition: int
    timestamp_ms: int
    leader_epoch: int = -1


async def find_offsets(
    services: Services, context: Context, wishes: Sequence[OffsetWish], isolation: int, *, is_anywhere: bool = False
) -> list[OffsetAt | DduomqError]:  # fmt: skip
    """The offset or the error of each wish; all are asked before the first is awaited. `is_anywhere`: see `Wish`."""
    replies: list[Reply[OffsetAt]] = []
    for wish in wishes:
        reply: Reply[OffsetAt] = Reply()
        replies.append(reply)
        try:
            services.gate.admit(context, Operation.DESCRIBE, wish.topic)
            if wish.timestamp_ms < MAX_TIMESTAMP:
                raise InvalidRequest(f"{wish.timestamp_ms} is neither a time nor one of -1, -2, -3")
            find = services.routes.anywhere if is_anywhere else services.routes.partition
            mailbox = find(wish.topic, wish.partition)
        except DduomqError as error:
            reply.fail(error)
            continue
        await mailbox.put(
            FindOffset(timestamp_ms=wish.timestamp_ms, isolation=isolation, leader_epoch=wish.leader_epoch, reply=reply)
        )
    found: list[OffsetAt | DduomqError] = []
    for reply in replies:
        answer = await answer_or_error(reply)
        found.append(answer)
    return found


async def answer_or_error(reply: Reply[T]) -> T | DduomqError:
    """The answer, or the error in its place."""
    try:
        return await reply.wait()
    except DduomqError as error:
        return error


async def list_offsets(services: Services, context: Context, body: native.ListOffsets) -> native.OffsetsFound:
    """The offsets that `body` asks for, each with its own error."""
    wishes = [OffsetWish(query.topic, query.partition, query.timestamp_ms) for query in body.queries]
    found = await find_offsets(services, context, wishes, body.isolation)
    return native.OffsetsFound(tuple(map(_offset_found, found)))


def _offset_found(found: OffsetAt | DduomqError) -> native.OffsetFound:
    if isinstance(found, DduomqError):
        return native.OffsetFound(found.code, found.message, -1, -1, -1)
    return native.OffsetFound(0, None, found.timestamp_ms, found.offset, found.leader_epoch)
