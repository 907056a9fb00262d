"""A member's life: heartbeats, partitions that come and go, commits, the good-bye.

Always true: a heartbeat is under way as long as the member lives, whatever its handlers do; a partition is given up
only when the work on it has ended (or its time has run out) and is committed; a commit carries the epoch in which
the member owns what it commits.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.abc
import attrs

from dduomq.client.consumer import Ask, Start, find_offset
from dduomq.client.feed import Feed
from dduomq.client.group_events import (
    Assigned,
    CommitRefused,
    Committed,
    DeadLettered,
    Event,
    Lost,
    Moved,
    Retried,
    Revoked,
)
from dduomq.client.member import OUT, Membership, Moves, Place, Subscription
from dduomq.client.part import Failed, Part
from dduomq.client.retrying import Ladder
from dduomq.errors import (
    CoordinatorNotAvailable,
    DduomqError,
    NetworkError,
    NotOwner,
    OffsetOutOfRange,
    OutcomeUnknown,
    RecordSettled,
    StaleMemberEpoch,
    UnknownTopicOrPartition,
    from_code,
)
from dduomq.limits import ASIDE_TEXT_CHARACTERS_MAX
from dduomq.wire import native
from dduomq.wire.native_groups import (
    JOIN,
    CommitOffsets,
    CommitPart,
    FetchCommitted,
    GroupHeartbeatAnswer,
    GroupOffsets,
    OffsetsCommitted,
)
from dduomq.wire.native_letters import AsidePart, SetAside, SetAsideAnswer
from dduomq.wire.ranges import Ranges

LOG = logging.getLogger("dduomq")
T = TypeVar("T")
Tell: TypeAlias = Callable[[Event], Awaitable[None]]
GRACE_MS = 5_000
AGAIN_S = 0.2
COMMIT_TRIES = 20
REBALANCE_SHARE = 0.8  # of the rebalance time-out, for the work to end


@attrs.frozen(kw_only=True)
class LifeOptions:
    """`commit_interval` in seconds; `start` is where a partition begins that has no committed offset. `ladder`: when
    records come again that could not be done; None: nothing is set aside.
    """

    said: Subscription
    start: Start
    auto_commit: bool
    commit_interval: float
    ladder: Ladder | None = None


class GroupLife:
    """Fills a feed with the partitions that the group gives us."""

    def __init__(
        self,
        options: LifeOptions,
        member_id: str,
        feed: Feed,
        *,
        ask: Ask,
        post: Callable[[object, int], Awaitable[Any]],
        tasks: anyio.abc.TaskGroup,
        deserialize: Callable[[Any], Any] | None,
        tell: Tell,
    ) -> None:
        self._options = options
        self._membership = Membership(member_id, options.said)
        self._feed = feed
        self._ask = ask
        self._post = post
        self._tasks = tasks
        self._deserialize = deserialize
        self._tell = tell
        self._changed = anyio.Event()
        self._committing = anyio.Lock()
        self._heard_at = 0.0
        self._incarnation = 0  # counts how often all was lost
        self._beginning: dict[Place, object] = {}  # partitions that are ours and not read yet, with whose turn it is
        self._elsewhere: dict[Place, Ranges] = {}  # what the group has set aside of partitions that begin
        self._is_leaving = False
        self.joined = anyio.Event()

    # --- heartbeats ---------------------------------------------------------------------------------

    async def live(self) -> None:
        """For ever; what the group refuses for good makes the feed fail."""
        self._heard_at = anyio.current_time()
        self._tasks.start_soon(self._watch_session)
        while True:
            sent_at, incarnation = anyio.current_time(), self._incarnation
            try:
                answer = await self._beat()
            except DduomqError as error:
                if incarnation == self._incarnation and not await self._beat_failed(error):
                    return
                continue
            if answer is None or incarnation != self._incarnation:
                continue
            if anyio.current_time() >= sent_at + self._session_s:  # what it gives us may be somebody else's by now
                await self._lose()
                continue
            self._heard_at = sent_at
            await self._move(self._membership.answered(answer))

    async def _watch_session(self) -> None:
        """When the broker may have put us out, all is lost: by our clock no later than by its own."""
        while True:
            left = self._heard_at + self._session_s - anyio.current_time()
            if left > 0:
                await anyio.sleep(left)
                continue
            if self._membership.epoch != JOIN:  # an answer that is on its way does not count any more, either
                await self._lose()
            await anyio.sleep(AGAIN_S)

    @property
    def _session_s(self) -> float:
        return self._options.said.session_ms / 1000

    async def _beat(self) -> GroupHeartbeatAnswer | None:
        """One heartbeat; None if something has changed here before it was answered."""
        beat = self._membership.beat()
        self._changed = anyio.Event()
        pending = await self._post(beat, beat.wait_ms + GRACE_MS)
        pending.call(self._changed.set)
        with anyio.move_on_after((beat.wait_ms + GRACE_MS) / 1000) as scope:
            await self._changed.wait()
        if pending.is_answered:
            pending.forget()
            return native.from_plain(GroupHeartbeatAnswer, pending.answer()[0])
        if scope.cancelled_caught:
            raise pending.late("the coordinator gave no answer")
        pending.forget()
        return None

    async def _beat_failed(self, error: DduomqError) -> bool:
        """False if there is no hope."""
        if self._membership.failed(error):
            await self._lose()
            return True
        if not error.retriable and not isinstance(error, NetworkError | OutcomeUnknown):
            self._feed.fail(error)
            self.joined.set()
            return False
        await anyio.sleep(AGAIN_S)
        return True

    async def _lose(self) -> None:
        """The group has gone on without us."""
        self._membership.lose()
        self._incarnation += 1
        self._beginning.clear()
        lost = tuple(self._feed.parts.values())
        for part in lost:
            part.is_lost = True
            self._feed.remove(part)
        if lost:
            await self._tell(Lost(tuple(part.id for part in lost)))

    # --- partitions ---------------------------------------------------------------------------------

    async def _move(self, moves: Moves) -> None:
        """Begin and give up beside the heartbeats: neither a slow callback nor a partition that is away stops those."""
        for place in moves.revoked:
            self._beginning.pop(place, None)
        if moves.revoked:
            held = self._feed.parts
            parts = [part for place in moves.revoked if (part := held.get(place[1:])) and part.topic_id == place[0]]
            self._feed.stop(parts)
            self._tasks.start_soon(self._give_up, moves.revoked, parts)
        if moves.assigned:
            turn = object()
            self._beginning.update(dict.fromkeys(moves.assigned, turn))
            self._tasks.start_soon(self._begin, moves.assigned, turn)
        else:
            self.joined.set()

    async def _begin(self, places: Sequence[Place], turn: object) -> None:
        """Read these partitions, each from where the group is in it, or else from where the consumer wants to begin."""
        topics = tuple(sorted({topic for _, topic, _ in places}))
        found = await self._surely(FetchCommitted(self._options.said.group, topics), GroupOffsets)
        committed = {(part.topic, part.partition): part.offset for part in found.offsets}
        aside = {(part.topic, part.partition): Ranges(part.ranges) for part in found.aside}
        self._elsewhere.update({place: aside[place[1:]] for place in places if place[1:] in aside})
        await self._learn_lifetimes(topics)
        named = self._options.said.topics
        if named and any(self._membership.is_retry(topic_id) for topic_id, _, _ in places):  # it brings theirs
            await self._learn_lifetimes(named)
        starts: dict[Place, tuple[int, bool]] = {}
        for place in places:
            offset = committed.get(place[1:])
            if offset is not None:
                starts[place] = offset, True
                continue
            start = await self._start_of(place, turn, tries=1)
            if start is not None:
                starts[place] = start, self._is_early(place)
            else:
                self._tasks.start_soon(self._begin_later, place, turn)
        await self._add(starts, turn)
        self.joined.set()

    async def _learn_lifetimes(self, topics: Sequence[str]) -> None:
        found = await self._surely(native.Metadata(tuple(topics)), native.MetadataAnswer)
        for topic in found.topics:
            self._feed.live_for(topic)

    async def _begin_later(self, place: Place, turn: object) -> None:
        """A partition that is away just now, and holds up none of the others."""
        start = await self._start_of(place, turn)
        if start is not None:
            await self._add({place: (start, self._is_early(place))}, turn)

    async def _add(self, starts: Mapping[Place, tuple[int, bool]], turn: object) -> None:
        """Read those that are still ours, and tell so, before anything else can happen to them.

        `starts`: the first offset, and whether the group has it already.
        """
        ours = {place: start for place, start in starts.items() if self._beginning.get(place) is turn}
        for place, (offset, is_committed) in ours.items():
            del self._beginning[place]
            topic_id, topic, partition = place
            before = self._feed.parts.get((topic, partition))
            if before is not None:  # of a topic that was deleted and made again
                self._feed.remove(before)
            part = Part(
                topic_id, topic, partition, offset, self._deserialize, is_committed=is_committed,
                is_retry=self._membership.is_retry(topic_id), aside=self._elsewhere.pop(place, None),
                ladder=self._options.ladder, set_aside=self._set_aside,
            )  # fmt: skip
            self._feed.add(part)
        if ours:
            await self._tell(Assigned({place[1:]: offset for place, (offset, _) in ours.items()}))

    def _is_early(self, place: Place) -> bool:
        """Whoever comes after us would begin there too, without a commit; any other start is kept at once."""
        return self._start(place[0]) == "earliest"

    def _start(self, topic_id: str) -> Start:
        """Where a partition begins that the group does not know; what has stepped aside is wanted from the first on."""
        return "earliest" if self._membership.is_retry(topic_id) else self._options.start

    async def _surely(self, body: object, answer: type[T]) -> T:
        """Ask until there is an answer, or one that will not change."""
        while True:
            try:
                plain, _ = await self._ask(body, GRACE_MS)
                return native.from_plain(answer, plain)
            except DduomqError as error:
                if not error.retriable and not isinstance(error, NetworkError):
                    raise
            await anyio.sleep(AGAIN_S)

    async def _start_of(self, place: Place, turn: object, tries: int | None = None) -> int | None:
        """Where the consumer wants to begin; None if that could not be found in so many tries, or is not wanted."""
        topic_id, topic, partition = place
        while self._beginning.get(place) is turn:
            try:
                return await find_offset(self._ask, topic, partition, self._start(topic_id), GRACE_MS)
            except DduomqError as error:
                is_gone = isinstance(error, UnknownTopicOrPartition)  # deleted: the group will hear of it
                if not error.retriable and not is_gone and not isinstance(error, NetworkError):
                    raise
            tries = None if tries is None else tries - 1
            if tries == 0:
                return None
            await anyio.sleep(AGAIN_S)
        return None

    async def elsewhere(self, part: Part) -> int:
        """Where to go on in a partition whose next record is not there: at its start, or at the end, if that is
        where the consumer wanted to begin."""
        topic, partition = part.id
        start: Start = "latest" if self._start(part.topic_id) == "latest" else "earliest"
        offset = await find_offset(self._ask, topic, partition, start, GRACE_MS)
        await self._tell(Moved(part.id, offset))
        return offset

    async def _give_up(self, places: Sequence[Place], parts: Sequence[Part]) -> None:
        """Let the work end, commit it, tell, let go."""
        incarnation = self._incarnation
        with anyio.move_on_after(self._options.said.rebalance_ms / 1000 * REBALANCE_SHARE):
            for part in parts:
                await part.idle()
        if self._options.auto_commit:
            await self.commit(parts)
        if incarnation != self._incarnation:
            return  # all was lost meanwhile: there is nothing to let go
        for part in parts:
            part.is_lost = True  # what has not begun must not begin any more
            self._feed.remove(part)
        if parts:
            await self._tell(Revoked(tuple(part.id for part in parts)))
        self._membership.released(places)
        self._changed.set()

    # --- commits ------------------------------------------------------------------------------------

    async def commit_now_and_then(self) -> None:
        """For ever, where that is wanted."""
        while self._options.auto_commit:
            await anyio.sleep(self._options.commit_interval)
            await self._commit_once(list(self._feed.parts.values()))

    async def commit(self, parts: Iterable[Part]) -> None:
        """Commit what is done, surely: until it is taken, refused for good, or hopeless."""
        parts = list(parts)
        for _ in range(COMMIT_TRIES):
            if await self._commit_once(parts):
                return
            if self._is_leaving:
                await self._catch_up()
            await anyio.sleep(AGAIN_S)

    async def _catch_up(self) -> None:
        """Learn the group's epoch once more, when nobody here sends heartbeats any more."""
        self._membership.doubt()
        try:
            plain, _ = await self._ask(self._membership.beat(), GRACE_MS)
        except OUT:
            self._membership.lose()
        except DduomqError:
            return  # the next try may be luckier
        else:
            self._membership.answered(native.from_plain(GroupHeartbeatAnswer, plain))

    async def _commit_once(self, parts: Iterable[Part]) -> bool:
        """True if nothing is left to commit, or will be by trying again."""
        async with self._committing:
            for is_rewound in (False, True):
                mine = [part for part in parts if part.is_rewound == is_rewound and not part.is_lost]
                todo = {part: part.progress.position for part in mine}
                todo = {part: at for part, at in todo.items() if at != part.progress.committed}
                if todo and not await self._commit_these(todo, rewind=is_rewound):
                    return False
        return True

    async def _commit_these(self, todo: dict[Part, int], *, rewind: bool) -> bool:
        membership, turns = self._membership, [part.turn for part in todo]
        parts = tuple(CommitPart(*part.id, offset, topic_id=part.topic_id) for part, offset in todo.items())
        body = CommitOffsets(self._options.said.group, membership.member_id, membership.epoch, parts, rewind)
        try:
            plain, _ = await self._ask(body, GRACE_MS)
        except OUT:
            return True  # the next heartbeat says so, too
        except StaleMemberEpoch:
            membership.doubt()
            self._changed.set()
            return False
        except DduomqError as error:
            if not error.retriable and not isinstance(error, NetworkError):
                raise
            return False
        results = native.from_plain(OffsetsCommitted, plain).parts
        errors = [from_code(r.code, r.message or "") if r.code else None for r in results]
        await self._committed(todo, turns, errors)
        return not any(error is not None and error.retriable for error in errors)

    async def _committed(
        self, todo: dict[Part, int], turns: Sequence[int], errors: Sequence[DduomqError | None]
    ) -> None:  # fmt: skip
        """`turns`: those of the parts when the question left; whoever has sought since has more to commit."""
        taken = {}
        for (part, offset), turn, error in zip(todo.items(), turns, errors, strict=True):
            if error is not None and error.retriable:
                continue
            if part.turn == turn:
                part.progress.committed = offset
                part.is_rewound = False
            if error is None:
                taken[part.id] = offset
            else:
                await self._tell(CommitRefused(part.id, offset, error))
        if taken:
            await self._tell(Committed(taken))

    # --- what could not be done ---------------------------------------------------------------------

    async def _set_aside(self, part: Part, failed: Failed) -> bool:
        """Until the broker has taken it: False if the partition is ours no more. Raises what it refuses for good."""
        said = AsidePart(
            *part.id, failed.at, failed.delay_ms or 0, failed.delay_ms is None,
            failed.error[:ASIDE_TEXT_CHARACTERS_MAX], failed.reason[:ASIDE_TEXT_CHARACTERS_MAX], part.topic_id,
            failed.is_foreign,
        )  # fmt: skip
        while not part.is_lost:  # without an answer our session ends, and then it is
            error = await self._ask_aside(said)
            if error is None:
                event = DeadLettered(failed.record, failed.error, failed.reason)
                is_dead = failed.delay_ms is None
                if not failed.is_foreign:
                    await self._tell(event if is_dead else Retried(failed.record, failed.delay_ms or 0, failed.error))
                return True
            if isinstance(error, (*OUT, NotOwner)):
                return False
            if isinstance(error, RecordSettled):
                if not part.is_rewound:  # an earlier try of ours has reached the broker
                    return True
                await self._commit_once([part])  # it knows only then that this is to be done once more
                continue
            if isinstance(error, OffsetOutOfRange):
                LOG.error("%r can't step aside: %s", failed.record, error.message)
                return True
            if not error.retriable and not isinstance(error, NetworkError | OutcomeUnknown):
                raise error
            await anyio.sleep(AGAIN_S)
        return False

    async def _ask_aside(self, said: AsidePart) -> DduomqError | None:
        membership = self._membership
        body = SetAside(self._options.said.group, membership.member_id, membership.epoch, (said,))
        try:
            plain, _ = await self._ask(body, GRACE_MS)
        except StaleMemberEpoch as error:
            membership.doubt()
            self._changed.set()
            if self._is_leaving:
                await self._catch_up()
            return CoordinatorNotAvailable(error.message)
        except DduomqError as error:
            return error
        result = native.from_plain(SetAsideAnswer, plain).parts[0]
        return from_code(result.code, result.message or "") if result.code else None

    # --- the end ------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Commit, if that is wanted, and say good-bye."""
        self._is_leaving = True
        parts = list(self._feed.parts.values())
        self._feed.stop(parts)
        if self._options.auto_commit:
            await self.commit(parts)
        if parts:
            await self._tell(Revoked(tuple(part.id for part in parts)))
        if self._membership.epoch > 0:
            try:
                await self._ask(self._membership.goodbye(), GRACE_MS)
            except DduomqError:
                return  # its session will end
