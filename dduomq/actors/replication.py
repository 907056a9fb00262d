"""Fetching what this node follows: for each node that leads some of it one task, which asks for all of it together.

Tasks with a list, no actors, since the other node must be waited for; what it answers goes to the partitions as
messages. Always true: a partition is asked for once at most, or in the hands of its actor, so that the next time says
what is safe; what is under way for a leadership that is over is dropped. What is asked for stands at the leader until
there is news, and comes with the answer to whichever fetch waits there then: so the quiet ones are asked for once, and
one fetch at least is always under way. What is not followed any more is said to be forgotten, as who stands counts as
in sync. When an answer is lost, or this node has registered anew, a new line begins, and all is asked for anew. Who was
served goes to the end of those that are ready, so that catching up starves nobody.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import attrs
import structlog
import trio

from dduomq.actors.actor import Mailbox, Reply
from dduomq.actors.replica_messages import FollowerAt, Following, Replicate
from dduomq.cluster.ports import PeerLinks
from dduomq.errors import (
    DduomqError,
    FencedLeaderEpoch,
    LeaderNotAvailable,
    NotLeader,
    UnknownLeaderEpoch,
    WireError,
    from_code,
)
from dduomq.limits import (
    REPLICA_BACKOFF_MS,
    REPLICA_BACKOFF_MS_MAX,
    REPLICA_FETCH_BYTES_MAX,
    REPLICA_FETCH_PARTS_MAX,
    REPLICA_FETCH_WAIT_MS,
    REPLICA_FETCHES_MAX,
    REPLICA_LINE_MS,
    REPLICA_PART_BYTES_MAX,
    REPLICA_REQUEST_TIMEOUT_MS,
)
from dduomq.ports import Clock
from dduomq.replica.catch_up import CatchUp
from dduomq.wire.peer_replication import PeerFetch, PeerFetched, PeerFetchedPart, PeerFetchPart, PeerForgotten

EXPECTED = (
    NotLeader,
    LeaderNotAvailable,
    FencedLeaderEpoch,
    UnknownLeaderEpoch,
)  # while a leadership moves: nothing to tell anybody
NOT_YET = -1
EMPTY_ANSWERS_MAX = 3  # in a row, sooner than they may come


@attrs.define(slots=True, eq=False)
class _Part:
    """A partition that is followed. `marks`: the high watermark and log start that it has been told.

    `number`: of what it has asked for and waits for; 0: nothing.
    """

    following: Following
    offset: int
    last_epoch: int
    marks: tuple[int, int] = (NOT_YET, NOT_YET)
    leader_mark: int = NOT_YET
    failures: int = 0
    log_start: int = 0
    asked: int = 0  # bytes that it is to catch up by, on their way
    number: int = 0

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
        self._standing: dict[int, _Part] = {}  # asked for, by number
        self._forgotten: list[PeerForgotten] = []  # the leader is still to be told
        self._listening = 0  # fetches of this line that are under way
        self._empty = 0  # answers in a row that came too soon, and said nothing
        self._numbers = count(1)
        self._line = 0
        self._node_epoch = 0
        self._anew_at = 0.0  # when the next line begins at the latest
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
        part = self._parts.pop(key, None)
        if part is not None and self._standing.pop(part.number, None) is not None:
            self._forgotten.append(PeerForgotten(part.following.topic_id, part.following.partition, part.number))
            self.wake()
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
                self._check_line(now)
                parts = self._next_parts(now)
                if parts or self._must_listen(now):
                    self._in_flight += 1
                    self._listening += 1
                    nursery.start_soon(self._fetch, parts, self._question(parts))
                    continue
                with trio.move_on_after(self._pause_s(now)):
                    await self._news.wait()

    def _check_line(self, now: float) -> None:
        """A line stands for one registration of this node; and whatever went wrong with it, it does not for ever."""
        node_epoch = self._world.node_epoch()
        if node_epoch != self._node_epoch or now >= self._anew_at:
            self._node_epoch = node_epoch
            self._begin_anew(now)

    def _begin_anew(self, now: float) -> None:
        """Nothing stands any more at the leader, or nobody knows."""
        self._line += 1
        self._listening = 0
        self._forgotten.clear()
        self._anew_at = now + REPLICA_LINE_MS / 1000
        standing, self._standing = self._standing, {}
        for part in standing.values():
            self._refund(part)
            self._go_on(part)

    def _must_listen(self, now: float) -> bool:
        """Whether something stands, and no fetch is there to bring the news, or the leader is to be told something."""
        is_due = bool(self._forgotten) or (bool(self._standing) and not self._listening)
        return is_due and self._in_flight < REPLICA_FETCHES_MAX and now >= self._down_until

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
            if len(parts) == REPLICA_FETCH_PARTS_MAX:
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
            part.number = next(self._numbers)
            self._standing[part.number] = part
        return parts

    def _pause_s(self, now: float) -> float:
        until = [until for until, _ in self._held.values()]
        if (self._ready or self._standing) and now < self._down_until:
            until.append(self._down_until)
        until.append(now + self._catch_up.pause_s(self))
        return max(min(until) - now, 0)

    def _question(self, parts: Sequence[_Part]) -> PeerFetch:
        asked = tuple([self._asked(part) for part in parts])
        forgotten, self._forgotten = tuple(self._forgotten), []
        return PeerFetch(
            self._node_epoch, REPLICA_FETCH_WAIT_MS, REPLICA_FETCH_BYTES_MAX, asked, self._line, forgotten
        )  # fmt: skip

    async def _fetch(self, parts: Sequence[_Part], question: PeerFetch) -> None:
        """Ask for these, and take whatever comes, of them or of others that stand."""
        begun = self._world.clock.monotonic()
        try:
            link = self._world.links.link(self._leader)
            timeout_s = (REPLICA_FETCH_WAIT_MS + REPLICA_REQUEST_TIMEOUT_MS) / 1000
            answer, payload = await link.request(question, timeout_s=timeout_s)
            pieces = _split(answer, payload)
        except DduomqError as error:
            if question.line == self._line:
                self._unreachable(error)
        else:
            self._answered(begun, question, answer)
            for item, piece in zip(answer.parts, pieces, strict=True):
                part = self._standing.pop(item.number, None)
                if part is not None:
                    self._take(part, item, piece)
        finally:
            for part, asked in zip(parts, question.parts, strict=True):
                if part.number == asked.number:
                    self._refund(part)
            self._in_flight -= 1
            if question.line == self._line:
                self._listening -= 1
            self.wake()

    def _refund(self, part: _Part) -> None:
        """What it was to catch up by has not come."""
        self._catch_up.answered(part.asked, 0)
        part.asked = 0

    def _asked(self, part: _Part) -> PeerFetchPart:
        following = part.following
        max_bytes = REPLICA_PART_BYTES_MAX if part.is_abreast else self._catch_up.piece_bytes
        return PeerFetchPart(
            following.topic_id, following.partition, following.leader_epoch, part.offset, part.last_epoch, max_bytes,
            part.log_start, part.number, part.marks[0],
        )  # fmt: skip

    def _answered(self, begun: float, question: PeerFetch, answer: PeerFetched) -> None:
        """A leader that does not wait for news is not asked without end; now and then it has too many that wait."""
        is_early = (self._world.clock.monotonic() - begun) * 1000 < REPLICA_FETCH_WAIT_MS / 2
        is_empty = is_early and not answer.parts and question.line == self._line and self._listening == 1
        self._empty = self._empty + 1 if is_empty else 0
        if self._empty <= EMPTY_ANSWERS_MAX:
            self._failures = 0
        else:
            self._unreachable(WireError("it answers fetches before there is news"))

    def _unreachable(self, error: DduomqError) -> None:
        if not self._failures:
            self._world.log.warning("replication_interrupted", leader=self._leader, reason=error.message)
        now = self._world.clock.monotonic()
        self._down_until = now + _backoff_s(self._failures)
        self._failures += 1
        self._begin_anew(now)

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
            if item.log_start_offset > part.log_start:  # it can't be followed there: the disk refuses to remove files
                self._hold(part, REPLICA_BACKOFF_MS_MAX / 1000)
            else:
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


def _split(answer: object, payload: memoryview) -> list[memoryview]:
    """Each part's records. Raises `WireError` if the answer is not one to this question."""
    if not isinstance(answer, PeerFetched):
        raise WireError("a fetch was answered with something else")
    pieces = []
    position = 0
    for item in answer.parts:
        pieces.append(payload[position : position + max(item.size, 0)])
        position += len(pieces[-1])
        if len(pieces[-1]) != item.size:
            raise WireError("a fetch was answered with less than it says")
    return pieces
