"""The leader's side of replication: followers' questions over many partitions, each answered as soon as it has news.

Always true: a follower is known by its connection, not by what it says; every lease that a partition gave is closed;
what is sent is whole batches, as long as was promised, or an error; a partition is told that a follower has what it
asked behind only while a fetch of that follower's own waits here.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from dduomq.actors.actor import Mailbox, Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.partition_messages import FetchPlan
from dduomq.actors.replica_messages import ReplicaFetch
from dduomq.errors import CorruptMessage, DduomqError, LeaderNotAvailable
from dduomq.limits import FETCH_WAIT_MS_MAX, REPLICA_FETCH_BYTES_MAX
from dduomq.listeners.connection import Chunk, FilePart
from dduomq.listeners.fetch import INLINE_READ_BYTES_MAX, make_resident, within
from dduomq.listeners.standing import Line, Stand
from dduomq.ports import Clock
from dduomq.wire.peer_replication import PeerFetch, PeerFetched, PeerFetchedPart, PeerFetchPart

Found: TypeAlias = FetchPlan | DduomqError
FindPartition: TypeAlias = Callable[[str, int], Mailbox]


class Asker(Protocol):
    """The node that asks, as its connection has proved it. A later connection has a higher number."""

    @property
    def node_id(self) -> int: ...

    @property
    def connection(self) -> int: ...


class ReplicaServer:
    """Answers `PeerFetch`. `find(topic_id, partition)` raises `UnknownTopicOrPartition`."""

    def __init__(self, find: FindPartition, clock: Clock, disk: DiskClient) -> None:
        self._find = find
        self._clock = clock
        self._disk = disk
        self._lines: dict[int, Line] = {}

    async def fetch(
        self, asker: Asker, body: PeerFetch, _payload: memoryview
    ) -> tuple[PeerFetched, Sequence[Chunk]]:  # fmt: skip
        """The answer and its payload, after `max_wait_ms` at the latest: of all that stands what there is news of."""
        now = self._clock.monotonic()
        line = self._line(asker, body)
        if line is None:
            return PeerFetched(()), ()
        line.heard_at = now
        line.ask(body.parts)
        stands: list[Stand] = []
        found: list[Found] = []
        try:
            await self._gather(asker.node_id, line, body, stands, found)
            found[:] = within(found, min(body.max_bytes, REPLICA_FETCH_BYTES_MAX))
            await self._make_resident(found)
        except BaseException:
            _close_all(found)
            for stand in stands:
                stand.wake()
            raise
        for stand in stands:
            line.answered(stand)
        return _answer(stands, found)

    def _line(self, asker: Asker, body: PeerFetch) -> Line | None:
        """None: it has begun a new one since, and has asked there anew."""
        place = (asker.connection, body.line)
        line = self._lines.get(asker.node_id)
        if line is not None and line.place > place:
            return None
        if line is None or line.place < place:
            if line is not None:
                line.end()
            line = self._lines[asker.node_id] = Line(place, body.node_epoch)
        return line

    async def _gather(self, node_id: int, line: Line, body: PeerFetch, stands: list[Stand], found: list[Found]) -> None:
        """Wait for news, and add what is to be answered to `stands`, and what to `found`."""
        deadline = self._clock.monotonic() + min(max(body.max_wait_ms, 0), FETCH_WAIT_MS_MAX) / 1000
        while True:
            now = self._clock.monotonic()
            for stand, item in await self._ask_all(node_id, line, line.take_woken(now), body.max_bytes):
                if _is_news(item, stand.part):
                    stands.append(stand)
                    found.append(item)
                elif _is_mark_moved(item, stand.part):
                    stand.note()
            waiting = deadline - self._clock.monotonic()
            if stands or waiting <= 0 or await line.wait(waiting):
                break
        noted = line.take_noted(self._clock.monotonic())
        for stand, item in await self._ask_all(node_id, line, noted, body.max_bytes):
            if _is_news(item, stand.part) or _is_mark_moved(item, stand.part):
                stands.append(stand)
                found.append(item)

    async def _ask_all(
        self, node_id: int, line: Line, stands: Sequence[Stand], max_bytes: int
    ) -> list[tuple[Stand, Found]]:
        """Each one's plan or error. All are asked before the first is awaited."""
        replies: list[Reply[FetchPlan]] = []
        found: list[Found] = []
        try:
            for stand in stands:
                reply: Reply[FetchPlan] = Reply()
                replies.append(reply)
                try:
                    mailbox = self._find(*stand.key)
                    await mailbox.put(_question(stand, node_id, line.node_epoch, max_bytes, reply))
                except DduomqError as error:
                    if not reply.done:
                        reply.fail(error)
            for reply in replies:
                try:
                    found.append(await reply.wait())
                except DduomqError as error:
                    found.append(error)
        except BaseException:
            _close_all(found)
            for reply in replies[len(found) :]:
                reply.abandon()
            for stand in stands:
                stand.wake()
            raise
        return list(zip(stands, found, strict=True))

    async def _make_resident(self, found: Sequence[Found]) -> None:
        for item in found:
            if isinstance(item, FetchPlan) and item.lease is not None and not item.is_resident:
                await make_resident(self._disk, item.lease, item.position, item.size)


def _question(
    stand: Stand, node_id: int, node_epoch: int, max_bytes: int, reply: Reply[FetchPlan]
) -> ReplicaFetch:  # fmt: skip
    part = stand.part
    return ReplicaFetch(
        offset=part.offset,
        max_bytes=max(0, min(part.max_bytes, max_bytes, REPLICA_FETCH_BYTES_MAX)),
        leader_epoch=part.leader_epoch,
        watcher=stand,
        last_fetched_epoch=part.last_epoch,
        follower=node_id,
        follower_epoch=node_epoch,
        log_start_offset=part.log_start_offset,
        standing=stand,
        reply=reply,
    )


def _answer(stands: Sequence[Stand], found: Sequence[Found]) -> tuple[PeerFetched, list[Chunk]]:
    """What was planned, ready to be sent. The leases of what goes as a file go with it."""
    parts: list[PeerFetchedPart] = []
    chunks: list[Chunk] = []
    for stand, item in zip(stands, found, strict=True):
        number = stand.part.number
        try:
            plan, chunk = _take(item)
        except DduomqError as error:
            parts.append(PeerFetchedPart(error.code, error.message, number=number))
            continue
        if chunk is not None:
            chunks.append(chunk)
        epoch, end = plan.diverging or (-1, -1)
        parts.append(
            PeerFetchedPart(
                0, None, plan.high_watermark, plan.log_start_offset, plan.log_end_offset, plan.size, epoch, end, number
            )
        )
    return PeerFetched(tuple(parts)), chunks


def _take(found: Found) -> tuple[FetchPlan, Chunk | None]:
    """A plan, and what is to be sent of it. Raises the error that is there instead, `CorruptMessage` and the like.

    What is committed is never cut, so it may go from the file whenever the socket takes it. What is above the high
    watermark is read now, and counts only if this leadership still lasts then: behind it the log may be cut, and
    records of another past, older than this leader's even, may lie at that place.
    """
    if isinstance(found, DduomqError):
        raise found
    if found.lease is None:
        return found, None
    if found.next_offset <= found.high_watermark and found.size > INLINE_READ_BYTES_MAX:
        return found, FilePart(found.lease, found.position, found.size)
    try:
        data = found.lease.read(found.position, found.size)
    except OSError as error:
        raise CorruptMessage(f"the log can't be read: {error.strerror}") from error
    finally:
        found.close()
    if len(data) != found.size or not found.is_current():
        raise LeaderNotAvailable("the log has just been cut; fetch again")
    return found, data


def _is_news(item: Found, part: PeerFetchPart) -> bool:
    """Whether a follower has something to do about it."""
    if isinstance(item, DduomqError) or item.size or item.diverging is not None:
        return True
    is_inside = item.log_start_offset <= part.offset <= item.log_end_offset
    return not is_inside or item.log_start_offset > part.log_start_offset


def _is_mark_moved(item: Found, part: PeerFetchPart) -> bool:
    """Whether there is something to tell a follower, as soon as it is told anything."""
    return isinstance(item, FetchPlan) and item.high_watermark != part.high_watermark


def _close_all(found: list[Found]) -> None:
    for item in found:
        if isinstance(item, FetchPlan):
            item.close()
