"""Fetching what this node follows: for each node that leads some of it one task, which asks for all of it together.

Tasks with a list, no actors, since the other node must be waited for; what it answers goes to the partitions as
messages. Always true: a partition is in one fetch at most, or in the hands of its actor, so its next fetch says what is
safe; what is under way for a leadership that is over is dropped. A fetch waits at the leader until one of its
partitions has news; those that get some come back by themselves, in a fetch of their own, so that the busy ones don't
ask for the quiet ones each time. Who was served goes to the end of the line, so that catching up starves nobody.
"""

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import structlog
import trio

from dduomq.actors.actor import Mailbox, Reply
from dduomq.actors.replica_messages import FollowerAt, Following, Replicate
from dduomq.cluster.ports import PeerLinks
from dduomq.errors import DduomqError, FencedLeaderEpoch, NotLeader, UnknownLeaderEpoch, WireError, from_code
from dduomq.limits import (
    PARTITIONS_PER_REQUEST_MAX,
    REPLICA_BACKOFF_MS,
    REPLICA_BACKOFF_MS_MAX,
    REPLICA_FETCH_BYTES_MAX,
    REPLICA_FETCH_WAIT_MS,
    REPLICA_FETCH_WAIT_MS_SHORT,
    REPLICA_FETCHES_MAX,
    REPLICA_PART_BYTES_MAX,
    REPLICA_REQUEST_TIMEOUT_MS,
)
from dduomq.ports import Clock
from dduomq.replica.catch_up import CatchUp
from dduomq.wire.peer_replication import PeerFetch, PeerFetched, PeerFetchedPart, PeerFetchPart

EXPECTED = (NotLeader, FencedLeaderEpoch, UnknownLeaderEpoch)  # while a leadership moves: nothing to tell anybody
NOT_YET = -1


@attrs.define(slots=True, eq=False)
class _Part:
    """A partition that is followed. `marks`: the high watermark and log start that it has been told."""

    following: Following
    offset: int
    last_epoch: int
    marks: tuple[int, int] = (NOT_YET, NOT_YET)
    leader_mark: int = NOT_YET
    failures: int = 0
    log_start: int = 0
    asked: int = 0  # bytes that it is to catch up by, on their way

    @property
    def key(self) -> int:
        return id(self.following.mailbox)

    @property
    def is_behind(self) -> bool:
        """Whether it lacks records that count: it is catching up."""
        return self.offset < self.leader_mark

    @property
    def is_abreast(self) -> bool:
        """Whether it lacked nothing when it was last asked for."""
        return self.leader_mark != NOT_YET and not self.is_behind


@attrs.frozen
class ReplicationWorld:
    """What all links work with. `node_epoch()`: the version of this node's key in the metadata.

    `catch_up_bytes_per_s`: of all links together, for partitions that are not in sync; None: as fast as it goes.
    """

    links: PeerLinks
    node_epoch: Callable[[], int]
    clock: Clock
    log: structlog.stdlib.BoundLogger
    catch_up_bytes_per_s: int | None = None


class Replication:
    """A `dduomq.actors.replica_messages.Follows`. `run` does the work, until cancelled."""

    def __init__(self, world: ReplicationWorld) -> None:
        self._world = world
        self._catch_up = CatchUp(world.catch_up_bytes_per_s)
        self._links: dict[int, ReplicationLink] = {}
        self._where: dict[int, ReplicationLink] = {}
        self._nursery: trio.Nursery | None = None

    def follow(self, following: Following) -> None:
        """See `Follows.follow`."""
        self.unfollow(following.mailbox)
        link = self._links.get(following.leader)
        if link is None:
            link = self._links[following.leader] = ReplicationLink(self._world, following.leader, self._catch_up)
            if self._nursery is not None:
                self._nursery.start_soon(link.run)
        self._where[id(following.mailbox)] = link
        link.add(following)

    def unfollow(self, mailbox: Mailbox) -> None:
        """See `Follows.unfollow`."""
        link = self._where.pop(id(mailbox), None)
        if link is not None:
            link.drop(mailbox)

    async def run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            for link in self._links.values():
                self._nursery.start_soon(link.run)
            await trio.sleep_forever()


class ReplicationLink:
    """All that this node follows of one leader. `catch_up` is shared by all links: their pieces come one by one."""

    def __init__(self, world: ReplicationWorld, leader: int, catch_up: CatchUp) -> None:
        self._world = world
        self._leader = leader
        self._parts: dict[int, _Part] = {}
        self._ready: dict[int, _Part] = {}  # in the order in which they are served
        self._held: dict[int, tuple[float, _Part]] = {}  # until when
        self._in_flight = 0
        self._failures = 0
        self._down_until = 0.0
        self._catch_up = catch_up
        self._news = trio.Event()

    def wake(self) -> None:
        """Look again what is to be done; see `dduomq.replica.catch_up.Asker`."""
        self._news.set()

    def add(self, following: Following) -> None:
        part = _Part(following, following.offset, following.last_epoch, log_start=following.log_start_offset)
        self._parts[part.key] = part
        self._go_on(part)

    def drop(self, mailbox: Mailbox) -> None:
        key = id(mailbox)
        self._parts.pop(key, None)
        self._ready.pop(key, None)
        self._held.pop(key, None)

    def _is_current(self, part: _Part) -> bool:
        return self._parts.get(part.key) is part

    def _go_on(self, part: _Part) -> None:
        if self._is_current(part):
            self._ready[part.key] = part
            self.wake()

    def _hold(self, part: _Part, seconds: float) -> None:
        if self._is_current(part):
            self._held[part.key] = (self._world.clock.monotonic() + seconds, part)
            self.wake()

    def _failed(self, part: _Part, error: BaseException | None) -> None:
        """Try again, later each time."""
        pause_s = _backoff_s(part.failures)
        part.failures += 1
        if part.failures == 1 and isinstance(error, DduomqError) and not isinstance(error, EXPECTED):
            self._world.log.warning(
                "replication_held_up", partition=part.following.mailbox.name, leader=self._leader, reason=error.message
            )
        self._hold(part, pause_s)

    # --- asking -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Fetch until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                now = self._world.clock.monotonic()
                self._release(now)
                parts = self._next_parts(now)
                if parts:
                    self._in_flight += 1
                    nursery.start_soon(self._fetch, parts)
                    continue
                with trio.move_on_after(self._pause_s(now)):
                    await self._news.wait()

    def _release(self, now: float) -> None:
        for key in [key for key, (until, _) in self._held.items() if until <= now]:
            _, part = self._held.pop(key)
            self._ready[key] = part
        self._catch_up.pass_time(now)

    def _next_parts(self, now: float) -> list[_Part]:
        """Those whose turn it is; none while the other node can't be reached, or enough is under way.

        There may be one fetch more for those that catch up: else a busy link would lose its place in the line.
        """
        parts: list[_Part] = []
        is_in_line = False
        is_full = self._in_flight >= REPLICA_FETCHES_MAX
        may_ask = self._in_flight <= REPLICA_FETCHES_MAX and now >= self._down_until
        for part in self._ready.values() if may_ask else ():
            if len(parts) == PARTITIONS_PER_REQUEST_MAX:
                break
            if part.is_behind:
                asked = None if is_in_line else self._catch_up.take(self)
                is_in_line = is_in_line or asked is None
                if asked is None:
                    continue
                part.asked = asked
            elif is_full:
                continue
            parts.append(part)
        if not is_in_line:
            self._catch_up.leave(self)
        for part in parts:
            del self._ready[part.key]
        return parts

    def _pause_s(self, now: float) -> float:
        until = [until for until, _ in self._held.values()]
        if self._ready and now < self._down_until:
            until.append(self._down_until)
        until.append(now + self._catch_up.pause_s(self))
        return max(min(until) - now, 0)

    async def _fetch(self, parts: Sequence[_Part]) -> None:
        piece_bytes = self._catch_up.piece_bytes
        wait_ms = REPLICA_FETCH_WAIT_MS_SHORT if self._in_flight >= REPLICA_FETCHES_MAX else REPLICA_FETCH_WAIT_MS
        body = PeerFetch(
            self._world.node_epoch(),
            wait_ms,
            REPLICA_FETCH_BYTES_MAX,
            tuple(
                PeerFetchPart(
                    part.following.topic_id, part.following.partition, part.following.leader_epoch, part.offset,
                    part.last_epoch, REPLICA_PART_BYTES_MAX if part.is_abreast else piece_bytes, part.log_start,
                )
                for part in parts
            ),
        )  # fmt: skip
        try:
            link = self._world.links.link(self._leader)
            timeout_s = (wait_ms + REPLICA_REQUEST_TIMEOUT_MS) / 1000
            answer, payload = await link.request(body, timeout_s=timeout_s)
            pieces = _split(answer, len(parts), payload)
        except DduomqError as error:
            self._unreachable(parts, error)
        else:
            self._failures = 0
            for part, item, piece in zip(parts, answer.parts, pieces, strict=True):
                self._take(part, item, piece)
        finally:
            for part in parts:
                self._catch_up.answered(part.asked, 0)
                part.asked = 0
            self._in_flight -= 1
            self.wake()

    def _unreachable(self, parts: Sequence[_Part], error: DduomqError) -> None:
        if not self._failures:
            self._world.log.warning("replication_interrupted", leader=self._leader, reason=error.message)
        self._down_until = self._world.clock.monotonic() + _backoff_s(self._failures)
        self._failures += 1
        for part in parts:
            self._go_on(part)

    # --- sharing out --------------------------------------------------------------------------------

    def _take(self, part: _Part, item: PeerFetchedPart, piece: memoryview) -> None:
        """Hand a partition what came for it; one for which nothing is new is asked for again at once."""
        is_late = part.asked or part.offset < item.high_watermark
        self._catch_up.answered(part.asked, len(piece) if is_late else 0)
        part.asked = 0
        if not self._is_current(part):
            return
        if item.code:
            self._failed(part, from_code(item.code, item.message or ""))
            return
        part.leader_mark = item.high_watermark
        marks = (item.high_watermark, item.log_start_offset)
        is_inside = item.log_start_offset <= part.offset <= item.log_end_offset
        if not len(piece) and item.diverging_epoch < 0 and is_inside and marks == part.marks:
            part.failures = 0
            self._go_on(part)
            return
        message = Replicate(
            leader_epoch=part.following.leader_epoch,
            offset=part.offset,
            data=piece,
            high_watermark=item.high_watermark,
            log_start_offset=item.log_start_offset,
            log_end_offset=item.log_end_offset,
            diverging=None if item.diverging_epoch < 0 else (item.diverging_epoch, item.diverging_end),
            reply=Reply(partial(self._stored, part, marks)),
            size_bytes=len(piece),
        )
        if not part.following.mailbox.offer(message):
            self._hold(part, REPLICA_BACKOFF_MS / 1000)

    def _stored(
        self, part: _Part, marks: tuple[int, int], at: FollowerAt | None, error: BaseException | None
    ) -> None:  # fmt: skip
        if at is None:
            self._failed(part, error)
            return
        part.failures = 0
        part.offset, part.last_epoch, part.marks = at.offset, at.last_epoch, marks
        part.log_start = at.log_start_offset
        self._go_on(part)


def _backoff_s(failures: int) -> float:
    return min(REPLICA_BACKOFF_MS << min(failures, 10), REPLICA_BACKOFF_MS_MAX) / 1000


def _split(answer: object, count: int, payload: memoryview) -> list[memoryview]:
    """Each part's records. Raises `WireError` if the answer is not one to this question."""
    if not isinstance(answer, PeerFetched) or len(answer.parts) != count:
        raise WireError("a fetch was answered with something else")
    pieces = []
    position = 0
    for item in answer.parts:
        pieces.append(payload[position : position + max(item.size, 0)])
        position += len(pieces[-1])
        if len(pieces[-1]) != item.size:
            raise WireError("a fetch was answered with less than it says")
    return pieces
