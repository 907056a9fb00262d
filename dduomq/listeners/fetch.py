"""Fetches and offset look-ups: ask the partitions, wait for news if need be, send from the files.

Always true: what is sent was resident when the sending began, so that `sendfile` does not stop the event
loop for the disk; every lease that a partition gave is closed.
"""

from functools import partial

import trio

from dduomq.actors.actor import Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.partition import Fetch, FetchPlan, FindOffset, OffsetAt, Watcher
from dduomq.errors import DduomqError, WireError
from dduomq.limits import FETCH_BYTES_MAX, FETCH_WAIT_MS_MAX, SCAN_CHUNK_BYTES
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.connection import Chunk, Connection, FilePart
from dduomq.listeners.services import Services
from dduomq.log.files import Lease
from dduomq.wire import frame, native

INLINE_READ_BYTES_MAX = 64 * 1024


async def fetch(
    services: Services,
    context: Context,
    connection: Connection,
    correlation: int,
    body: native.Fetch,
) -> None:
    """Answer a fetch, after `max_wait_ms` at the latest."""
    deadline = services.clock.monotonic() + min(max(body.max_wait_ms, 0), FETCH_WAIT_MS_MAX) / 1000
    while True:
        watcher = Watcher()
        try:
            found = await _ask_all(services, context, body, watcher)
            waiting = deadline - services.clock.monotonic()
            if waiting <= 0 or _is_enough(found, body.min_bytes):
                break
            _close_all(found)
            with trio.move_on_after(waiting):
                await watcher.wait()
        finally:
            watcher.gone = True
    await _answer(services, connection, correlation, _within(found, body.max_bytes))


async def _ask_all(
    services: Services, context: Context, body: native.Fetch, watcher: Watcher
) -> list[FetchPlan | DduomqError]:
    """Each part's plan or error. All are asked before the first is awaited."""
    replies: list[Reply[FetchPlan]] = []
    for part in body.parts:
        reply: Reply[FetchPlan] = Reply()
        replies.append(reply)
        try:
            services.gate.admit(context, Operation.READ, part.topic)
            mailbox = services.routes.partition(part.topic, part.partition)
        except DduomqError as error:
            reply.fail(error)
            continue
        message = Fetch(
            offset=part.offset,
            max_bytes=max(0, min(part.max_bytes, body.max_bytes, FETCH_BYTES_MAX)),
            isolation=body.isolation,
            leader_epoch=part.leader_epoch,
            watcher=watcher,
            reply=reply,
        )
        await mailbox.put(message)
    found: list[FetchPlan | DduomqError] = []
    try:
        for reply in replies:
            try:
                found.append(await reply.wait())
            except DduomqError as error:
                found.append(error)
    except trio.Cancelled:
        _close_all(found)
        for reply in replies[len(found) + 1 :]:
            reply.abandon()
        raise
    return found


def _is_enough(found: list[FetchPlan | DduomqError], min_bytes: int) -> bool:
    if any(isinstance(item, DduomqError) for item in found) or not found:
        return True
    return sum(item.size for item in found if isinstance(item, FetchPlan)) >= max(min_bytes, 0)


def _close_all(found: list[FetchPlan | DduomqError]) -> None:
    for item in found:
        if isinstance(item, FetchPlan):
            item.close()


def _within(found: list[FetchPlan | DduomqError], max_bytes: int) -> list[FetchPlan | DduomqError]:
    """Leave out the plans that would make the answer larger than asked for; the first always goes."""
    left = min(max_bytes, FETCH_BYTES_MAX)
    kept: list[FetchPlan | DduomqError] = []
    is_first = True
    for item in found:
        if isinstance(item, FetchPlan) and item.size:
            if item.size > left and not is_first:
                item.close()
                kept.append(
                    FetchPlan(
                        None,
                        0,
                        0,
                        item.high_watermark,
                        item.last_stable_offset,
                        item.log_start_offset,
                    )
                )
                continue
            left -= item.size
            is_first = False
        kept.append(item)
    return kept


def _part(item: FetchPlan | DduomqError) -> native.FetchedPart:
    if isinstance(item, DduomqError):
        return native.FetchedPart(item.code, item.message, -1, -1, -1, 0)
    return native.FetchedPart(
        0,
        None,
        item.high_watermark,
        item.last_stable_offset,
        item.log_start_offset,
        item.size,
        item.aborted,
    )


async def _answer(
    services: Services,
    connection: Connection,
    correlation: int,
    found: list[FetchPlan | DduomqError],
) -> None:
    plans = [item for item in found if isinstance(item, FetchPlan) and item.lease is not None]
    total = sum(plan.size for plan in plans)
    header = native.answer_header(correlation, native.Fetched(tuple(_part(item) for item in found)))
    chunks: list[Chunk] = [frame.write(header, total)]
    try:
        for plan in plans:
            assert plan.lease is not None
            await make_resident(services.disk, plan.lease, plan.position, plan.size)
    except BaseException:
        _close_all(found)
        raise
    if total <= INLINE_READ_BYTES_MAX:
        for plan in plans:
            assert plan.lease is not None
            chunks.append(plan.lease.read(plan.position, plan.size))
        _close_all(found)
        connection.send(b"".join(chunk for chunk in chunks if not isinstance(chunk, FilePart)))
        return
    chunks += [FilePart(plan.lease, plan.position, plan.size) for plan in plans if plan.lease is not None]
    connection.send_parts(chunks)


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


async def list_offsets(services: Services, context: Context, body: native.ListOffsets) -> native.OffsetsFound:
    """The offsets that `body` asks for, each with its own error."""
    replies: list[Reply[OffsetAt]] = []
    for query in body.queries:
        reply: Reply[OffsetAt] = Reply()
        replies.append(reply)
        try:
            services.gate.admit(context, Operation.DESCRIBE, query.topic)
            if query.timestamp_ms < native.MAX_TIMESTAMP:
                raise WireError(f"{query.timestamp_ms} is neither a time nor one of -1, -2, -3")
            mailbox = services.routes.partition(query.topic, query.partition)
        except DduomqError as error:
            reply.fail(error)
            continue
        await mailbox.put(FindOffset(timestamp_ms=query.timestamp_ms, isolation=body.isolation, reply=reply))
    return native.OffsetsFound(tuple([await _found(reply) for reply in replies]))


async def _found(reply: Reply[OffsetAt]) -> native.OffsetFound:
    try:
        at = await reply.wait()
    except DduomqError as error:
        return native.OffsetFound(error.code, error.message, -1, -1, -1)
    return native.OffsetFound(0, None, at.timestamp_ms, at.offset, at.leader_epoch)
