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
from dduomq.errors import CorruptMessage, DduomqError, LeaderNotAvailable, UnknownServerError
from dduomq.limits import FETCH_WAIT_MS_MAX, REPLICA_FETCH_BYTES_MAX
from dduomq.listeners.connection import Chunk, FilePart
from dduomq.listeners.fetch import INLINE_READ_BYTES_MAX, make_resident, within
from dduomq.listeners.standing import Found, Line, Stand
from dduomq.ports import Clock
from dduomq.wire.peer_replication import PeerFetch, PeerFetched, PeerFetchedPart, PeerFetchPart

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
        line = self._line(asker, body)
        if line is None:
            return PeerFetched(()), ()
        line.heard_at = self._clock.monotonic()
        line.forget(body.forgotten)
        line.ask(body.parts)
        with line.fetching():
            await self._until_news(asker.node_id, line, body)
            collected = line.collect()
        found = within([item for _, item in collected], min(body.max_bytes, REPLICA_FETCH_BYTES_MAX))
        try:
            for item in found:
                if isinstance(item, FetchPlan) and item.lease is not None and not item.is_resident:
                    await make_resident(self._disk, item.lease, item.position, item.size)
        except BaseException:
            _close_all(found)
            for stand, _ in collected:
                stand.wake()
            raise
        for stand, _ in collected:
            line.answered(stand)
        return _answer([stand.part.number for stand, _ in collected], found)

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

    async def _until_news(self, node_id: int, line: Line, body: PeerFetch) -> None:
        """Ask the partitions of what was woken, and wait until one has news, or for as long as the fetch may."""
        deadline = self._clock.monotonic() + min(max(body.max_wait_ms, 0), FETCH_WAIT_MS_MAX) / 1000
        while True:
            for stand in line.to_ask(self._clock.monotonic()):
                self._ask(node_id, line, stand, body.max_bytes)
            left = deadline - self._clock.monotonic()
            if line.has_news or left <= 0 or await line.wait(left):
                return

    def _ask(self, node_id: int, line: Line, stand: Stand, max_bytes: int) -> None:
        """Ask its partition. There are few followers, and appends wait for them: it answers them first."""
        part = stand.part

        def came(plan: FetchPlan | None, error: BaseException | None) -> None:
            if plan is not None:
                line.came(stand, plan, is_news=_is_news(plan, part))
            else:
                line.came(stand, error if isinstance(error, DduomqError) else UnknownServerError(), is_news=True)

        try:
            mailbox = self._find(part.topic_id, part.partition)
        except DduomqError as error:
            line.came(stand, error, is_news=True)
            return
        question = ReplicaFetch(
            offset=part.offset,
            max_bytes=max(0, min(part.max_bytes, max_bytes, REPLICA_FETCH_BYTES_MAX)),
            leader_epoch=part.leader_epoch,
            watcher=stand,
            last_fetched_epoch=part.last_epoch,
            follower=node_id,
            follower_epoch=line.node_epoch,
            log_start_offset=part.log_start_offset,
            standing=stand,
            reply=Reply(came),
        )
        mailbox.post(question)


def _answer(numbers: Sequence[int], found: Sequence[Found]) -> tuple[PeerFetched, list[Chunk]]:
    """What was planned, ready to be sent. The leases of what goes as a file go with it."""
    parts: list[PeerFetchedPart] = []
    chunks: list[Chunk] = []
    for number, item in zip(numbers, found, strict=True):
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


def _is_news(plan: FetchPlan, part: PeerFetchPart) -> bool:
    """Whether a follower has something to do about it at once."""
    if plan.size or plan.diverging is not None:
        return True
    is_inside = plan.log_start_offset <= part.offset <= plan.log_end_offset
    return not is_inside or plan.log_start_offset > part.log_start_offset


def _close_all(found: list[Found]) -> None:
    for item in found:
        if isinstance(item, FetchPlan):
            item.close()
