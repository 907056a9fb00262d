"""The life of a queue's member: heartbeats, records that are taken ahead, locks that are kept while the work goes on.

Always true: a heartbeat is under way as long as the member lives; a record that waits here longer than half a lock
goes back, and none is handed out whose lock may be over; what the broker asks about is answered by what is known here.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio
import attrs

from dduomq.client.consumer import Ask, Decoder
from dduomq.client.expiry import RUN_OUT
from dduomq.client.member import OUT
from dduomq.client.queue_record import QueuePlace, QueueRecord, Word
from dduomq.client.queue_words import Words
from dduomq.client.record import Record
from dduomq.client.returned import restore
from dduomq.errors import DduomqError, NetworkError, UnknownTopicOrPartition, from_code
from dduomq.ids import RETRY
from dduomq.wire import native
from dduomq.wire.native_groups import JOIN, LEAVE
from dduomq.wire.native_queue import (
    ACCEPT,
    GAP,
    REJECT,
    RELEASE,
    RENEW,
    RETURN,
    HeldPart,
    QueueHeartbeat,
    QueueHeartbeatAnswer,
    RecordEnding,
    RecordsTaken,
    TakenPart,
    TakePart,
    TakeRecords,
)

GRACE_MS = 10_000
AGAIN_S = 0.2
TAKE_WAIT_MS = 5_000
WAITS_A_LOCK = 4  # no longer than such a part of a lock: it is counted from when the question left
TAKE_BYTES = 1024 * 1024
KEEPS_A_LOCK = 3  # locks are renewed so often while they last


@attrs.frozen(kw_only=True)
class QueueOptions:
    """Times are milliseconds. `prefetch`: how many records may wait here."""

    group: str
    topics: tuple[str, ...]
    start: str
    prefetch: int
    lock_ms: int
    deliveries: int
    session_ms: int
    zone: str | None


class QueueLife:
    """Fills `waiting` with records; `working` are those that the user works on now."""

    def __init__(
        self,
        options: QueueOptions,
        member_id: str,
        *,
        ask: Ask,
        post: Callable[[object, int], Awaitable[Any]],
        deserialize: Callable[[Any], Any] | None,
        shown: Callable[[Record], Record | None] | None,
        has_run_out: Callable[[Record], bool],
        is_buried: Callable[[Record], bool],
    ) -> None:
        """`has_run_out`: its time to live; `is_buried`: then it is a dead letter, else it is passed."""
        self._options = options
        self._member_id = member_id
        self._ask = ask
        self._post = post
        self._deserialize = deserialize
        self._shown = shown
        self._has_run_out = has_run_out
        self._is_buried = is_buried
        self._epoch = JOIN
        self._heartbeat_ms = 0
        self._parts: deque[TakePart] = deque()
        self._retry_topics: set[str] = set()
        self._assigned = anyio.Event()
        self._alive_until = 0.0  # by the session; the broker counts it from later on
        self._is_in_doubt = False  # what was taken may have been lost on its way
        self._sure = anyio.Event()  # nothing is taken before it is set
        self._sure.set()
        self._beat_again = anyio.Event()
        self._held: dict[tuple[QueuePlace, int], QueueRecord] = {}
        self._returning: set[tuple[QueuePlace, int]] = set()  # given to us, but they never came
        self._ended: set[tuple[QueuePlace, int]] = set()  # heard, late, since the last heartbeat left
        self._window = options.prefetch
        self._is_behind = False  # records went back, as nobody came for them: none are taken before somebody does
        self._came = anyio.Event()
        self._went = anyio.Event()
        self.words = Words(options.group, member_id, ask, self._word_ended, lambda: self._alive_until, self._is_old)
        self.waiting: deque[QueueRecord] = deque()
        self.working: set[QueueRecord] = set()
        self.joined = anyio.Event()
        self.failure: DduomqError | None = None
        self.on_lost: Callable[[QueueRecord], None] | None = None

    # --- heartbeats ---------------------------------------------------------------------------------

    async def live(self) -> None:
        """For ever; what the group refuses for good ends it."""
        while self.failure is None:
            sent_at = anyio.current_time()
            try:
                answer = await self._beat()
            except OUT:
                self._epoch, self._heartbeat_ms = JOIN, 0
            except DduomqError as error:
                if not error.retriable and not isinstance(error, NetworkError):
                    self.fail(error)
                    return
                self._heartbeat_ms = 0
                await anyio.sleep(AGAIN_S)
            else:
                if answer is not None:
                    if not self._is_in_doubt:
                        self._sure.set()
                    self._alive_until = sent_at + self._options.session_ms / 1000
                    self._answered(answer)

    async def _beat(self) -> QueueHeartbeatAnswer | None:
        """One heartbeat; None if there is something to say before it is answered."""
        options, is_in_doubt, is_new = self._options, self._is_in_doubt, self._epoch == JOIN
        self._is_in_doubt = False
        self._ended.clear()
        body = QueueHeartbeat(
            options.group, self._member_id, self._epoch, 0 if is_in_doubt or is_new else self._heartbeat_ms,
            options.session_ms,
            options.topics if is_new else None, options.zone if is_new else None,
            options.deliveries if is_new else -1, self._held_parts() if is_in_doubt else None,
        )  # fmt: skip
        changed = self._beat_again = anyio.Event()
        try:
            pending = await self._post(body, body.wait_ms + GRACE_MS)
        except DduomqError:
            self._is_in_doubt = self._is_in_doubt or is_in_doubt
            raise
        pending.call(changed.set)
        with anyio.move_on_after((body.wait_ms + GRACE_MS) / 1000) as scope:
            await changed.wait()
        is_answered = pending.is_answered
        pending.forget()
        try:
            if is_answered:
                return native.from_plain(QueueHeartbeatAnswer, pending.answer()[0])
            if scope.cancelled_caught:
                raise pending.late("the coordinator gave no answer")
        except DduomqError:
            self._is_in_doubt = self._is_in_doubt or is_in_doubt
            raise
        return None

    def _held_parts(self) -> tuple[HeldPart, ...]:
        found: dict[QueuePlace, list[int]] = {}
        for place, offset in self._held:
            found.setdefault(place, []).append(offset)
        return tuple(HeldPart(*place, _ranges(sorted(offsets))) for place, offsets in found.items())

    def _answered(self, answer: QueueHeartbeatAnswer) -> None:
        if self._epoch == JOIN and self._held:  # the coordinator did not know us: is it still ours?
            for record in self._held.values():
                if not record.is_settled:
                    record.renew(self._options.lock_ms)
        self._epoch, self._heartbeat_ms = answer.member_epoch, answer.heartbeat_ms
        if answer.assignment is not None:
            self._parts = deque(
                TakePart(part.topic_id, part.topic, at) for part in answer.assignment for at in part.partitions
            )
            self._retry_topics = {part.topic_id for part in answer.assignment if part.kind == RETRY}
            self._assigned.set()
        for part in answer.doubts:
            for first, last in part.ranges:
                self._clear_up((part.topic_id, part.partition), first, last)
        self.joined.set()

    def _clear_up(self, place: QueuePlace, first: int, last: int) -> None:
        """The lock of these has expired, and the broker asks what of them.

        It may have asked before it heard what was said: a second word could then end what it gives us next.
        """
        for offset in range(first, last + 1):
            key = (place, offset)
            record = self._held.get(key)
            if record is None:
                if key not in self._returning and key not in self._ended:
                    self._returning.add(key)
                    self.words.say(Word(place, RecordEnding(offset, offset, RETURN), None))
            elif record in self.working and not record.is_settled:
                record.renew(self._options.lock_ms)
            elif not record.is_settled:  # else what was said is on its way, once more if need be
                record.say(RETURN if record in self.waiting else RELEASE)
                record.is_lost = True

    def fail(self, error: DduomqError) -> None:
        """There is no hope."""
        self.failure = self.failure or error
        self.joined.set()
        self._sure.set()
        self._came.set()

    # --- taking -------------------------------------------------------------------------------------

    async def take_always(self) -> None:
        """For ever: fetch ahead what the user will ask for."""
        while self.failure is None:
            while not self._parts:
                self._assigned = anyio.Event()
                await self._assigned.wait()
            while len(self.waiting) > self._window // 2 or self._is_behind:
                self._went = anyio.Event()
                await self._went.wait()
            try:
                await self._take(self._window - len(self.waiting))
            except OUT:
                await anyio.sleep(AGAIN_S)
            except DduomqError as error:
                if not error.retriable and not isinstance(error, NetworkError):
                    self.fail(error)
                    return
                self._is_in_doubt, self._sure = True, anyio.Event()
                self._beat_again.set()
                await anyio.sleep(AGAIN_S)
                await self._sure.wait()  # else the broker might take for lost what it gives meanwhile

    async def _take(self, most: int) -> None:
        options = self._options
        self._parts.rotate(-1)
        wait_ms = min(TAKE_WAIT_MS, options.lock_ms // WAITS_A_LOCK)
        body = TakeRecords(
            options.group, self._member_id, tuple(self._parts), most, TAKE_BYTES, wait_ms, options.lock_ms,
            options.start,
        )  # fmt: skip
        safe_until = anyio.current_time() + options.lock_ms / 1000
        plain, payload = await self._ask(body, wait_ms + GRACE_MS)
        at, is_away, has_some = 0, False, False
        for part in native.from_plain(RecordsTaken, plain).parts:
            if part.code:
                is_away = True
                self._refused(from_code(part.code, part.message or ""))
            else:
                has_some = True
                self._add(part, payload[at : at + part.size], safe_until)
            at += part.size
        if is_away and not has_some:
            await anyio.sleep(AGAIN_S)
        if self.waiting:
            self._came.set()

    def _refused(self, error: DduomqError) -> None:
        """A partition that is away may come back, and a topic that is gone leaves the assignment."""
        if not error.retriable and not isinstance(error, UnknownTopicOrPartition):
            raise error

    def _add(self, part: TakenPart, data: memoryview, safe_until: float) -> None:
        place, now = (part.topic_id, part.partition), anyio.current_time()
        decoder = Decoder(part.topic, part.partition, part.spans[0][0], self._deserialize, QueueRecord)
        records = iter(decoder.decode(data, ()))
        record = next(records, None)
        for first, last, count in part.spans:
            missing = first
            while record is not None and record.offset <= last:
                if record.offset >= first:
                    self._say_gap(place, missing, record.offset - 1)
                    missing = record.offset + 1
                    self._keep(record, place, count, now, safe_until)
                record = next(records, None)
            self._say_gap(place, missing, last)

    def _say_gap(self, place: QueuePlace, first: int, last: int) -> None:
        """There are no such records."""
        if first <= last:
            self.words.say(Word(place, RecordEnding(first, last, GAP), None))

    def _keep(self, record: Record, place: QueuePlace, count: int, now: float, safe_until: float) -> None:
        assert isinstance(record, QueueRecord)
        record.take(place, self.words, count, now, safe_until)
        if place[0] in self._retry_topics:
            restore(record)
        if self._shown is not None:
            shown = self._shown(record)
            if shown is None:
                record.say(ACCEPT)
                return
        self._held[place, record.at] = record
        self.waiting.append(record)

    # --- for the user -------------------------------------------------------------------------------

    def next(self) -> QueueRecord | None:
        """The next record that waits and is surely ours, if there is one; it is being worked on from now on."""
        now = anyio.current_time()
        if self._is_behind:
            self._is_behind = False
            self._went.set()
        while self.waiting:
            record = self.waiting.popleft()
            if len(self.waiting) <= self._window // 2:
                self._went.set()
            if record.is_settled or record.is_lost:
                continue
            if now >= record.safe_until or now >= self._alive_until:
                record.say(RETURN)
                continue
            if self._has_run_out(record):
                record.say(REJECT if self._is_buried(record) else ACCEPT, 0, RUN_OUT)
                continue
            self.working.add(record)
            return record
        return None

    async def wait(self) -> None:
        """Until `next` may have something."""
        if not self.waiting and self.failure is None:
            if self._came.is_set():
                self._came = anyio.Event()
            await self._came.wait()

    def leave_off(self, record: QueueRecord) -> None:
        """The user works on it no more, whether he has said what became of it or not."""
        self.working.discard(record)

    def _word_ended(self, word: Word) -> None:
        """A record that is settled, or lost, is not ours any more."""
        record, key = word.record, (word.place, word.ending.first)
        if record is None:
            if key in self._returning:
                self._returning.discard(key)
                self._ended.add(key)
            return
        if word.ending.kind == RENEW and not record.is_lost:
            return
        if anyio.current_time() >= record.safe_until:  # else nobody has asked about it
            self._ended.add(key)
        if self._held.get(key) is record:
            del self._held[key]
            if record.is_lost and self.on_lost is not None:
                self.on_lost(record)

    def _is_old(self, word: Word) -> bool:
        """Whether its record has come again since it was said."""
        held = self._held.get((word.place, word.ending.first))
        return held is not None and held is not word.record

    # --- locks --------------------------------------------------------------------------------------

    async def keep_locks(self) -> None:
        """For ever: the locks of what is worked on are renewed, what has waited for too long goes back."""
        interval_s = self._options.lock_ms / 1000 / KEEPS_A_LOCK
        while True:
            await anyio.sleep(interval_s)
            for record in self.working:
                if not record.is_settled and not record.is_lost:
                    record.renew(self._options.lock_ms)
            oldest = anyio.current_time() - self._options.lock_ms / 2000
            late = [record for record in self.waiting if record.since <= oldest]
            if late:
                self._window, self._is_behind = max(1, self._window // 2), True
                self._give_back(late)
            elif not self.waiting:
                self._window = min(self._options.prefetch, self._window * 2)

    def _give_back(self, records: Iterable[QueueRecord]) -> None:
        """Nobody has begun with them: it is as if they had not come."""
        back = set(records)
        self.waiting = deque(record for record in self.waiting if record not in back)
        for record in back:
            if not record.is_settled and not record.is_lost:
                record.say(RETURN)
        self._went.set()

    # --- the end ------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """What was said is told, all else goes back at once; what has not even come was never given out."""
        self._give_back(list(self.waiting))
        for record in list(self._held.values()):
            if not record.is_settled and not record.is_lost:
                record.say(RELEASE)
        await self.words.drain()
        if self._epoch != JOIN:
            body = QueueHeartbeat(self._options.group, self._member_id, LEAVE, held=())
            try:
                await self._ask(body, GRACE_MS)
            except DduomqError:
                return  # its session will end


def _ranges(offsets: list[int]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for offset in offsets:
        if found and found[-1][1] + 1 == offset:
            found[-1] = (found[-1][0], offset)
        else:
            found.append((offset, offset))
    return tuple(found)
