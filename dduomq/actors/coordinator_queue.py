"""Queues: records given out one by one to the members of share groups, each until it is done (KIP-932).

Part of the coordinator's actor, not a task. Always true: a record is given out only after it is stored who has it;
an answer about records waits until what it says is stored; when that can't be, the coordinator's state is read anew
from its log; who waits for records is woken when there may be some.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from dduomq.actors.actor import Message, Reply
from dduomq.actors.coordinator_aside import SettingAside
from dduomq.actors.coordinator_log import Entry
from dduomq.actors.coordinator_queue_messages import (
    Acquire,
    Acquired,
    ConfigureQueues,
    DescribeQueues,
    FitQueue,
    LoseRecord,
    MoveQueues,
    NextReads,
    QueueState,
    ReadsFound,
    ReleaseHeld,
    Settle,
    Settled,
)
from dduomq.actors.coordinator_table import Group, GroupTable
from dduomq.actors.partition_messages import Acked, Watcher
from dduomq.errors import CoordinatorLoading, DduomqError, GroupNotEmpty, GroupNotFound, InvalidRequest, RecordNotHeld
from dduomq.groups import records
from dduomq.groups.queue import REJECT, RELEASE, Change, Queue, SpanRecord
from dduomq.groups.records import QUEUE, QUEUED, Place, QueueKey, ShareRecord
from dduomq.limits import MIB, QUEUE_ENDINGS_MAX, QUEUE_LOCK_MS_MAX, QUEUE_LOCK_MS_MIN, QUEUE_WATCHERS_MAX

REASONS_BYTES_MAX = 2 * MIB  # of what is stored at once
UTF8_MOST = 4  # bytes of a character
MAY_KILL = (RELEASE, REJECT)


class Queues:
    """The coordinator's hands for queues. `aside` brings dead records where people see them; `on_failure`: storing has
    failed.
    """

    __slots__ = ("_aside", "_on_failure", "_table")

    def __init__(
        self, table: GroupTable, aside: SettingAside, on_failure: Callable[[DduomqError], None]
    ) -> None:  # fmt: skip
        self._table = table
        self._aside = aside
        self._on_failure = on_failure

    # --- the start ----------------------------------------------------------------------------------

    def apply(self, key: QueueKey, value: bytes | None) -> None:
        """What a record says is so."""
        table = self._table
        group = table.get_or_make(key.group)
        if value is None:
            group.queues.pop(key.place, None)
            return
        if key.kind == QUEUE:
            end, spans = records.decode_queue(value)
            group.queues[key.place] = Queue(end)
        else:
            spans = records.decode_queued(value)
            if key.place not in group.queues:
                group.queues[key.place] = Queue(spans[0].first)
        group.queues[key.place].apply(spans, table.now(), table.wall_ms())
        table.schedule_at(group, group.queues[key.place].next_due())

    def handle(self, message: Message) -> None:
        """Do what it asks for."""
        handlers: dict[type[Message], Callable[[Any], None]] = {
            NextReads: self.next_reads,
            Acquire: self.acquire,
            Settle: self.settle,
            ReleaseHeld: self.release_held,
            FitQueue: self.fit,
            LoseRecord: self.lose,
            DescribeQueues: self.describe,
            MoveQueues: self.move,
            ConfigureQueues: self.configure,
        }
        handlers[type(message)](message)

    # --- reading ------------------------------------------------------------------------------------

    def next_reads(self, message: NextReads) -> None:
        reply: Reply[ReadsFound] | None = message.reply
        assert reply is not None
        group = self._of(message.group, message.member_id)
        begun: list[Entry] = []
        for place, offset in message.begin.items():
            if place not in group.queues:
                group.queues[place] = Queue(offset)
                begun.append((QueueKey(group.name, QUEUE, place), records.encode_queue(offset, ())))
        now = self._table.now()
        known = [place for place in message.places if place in group.queues]
        found = ReadsFound(
            {place: group.queues[place].next_offset(now) for place in known},
            tuple(place for place in message.places if place not in group.queues),
            group.settings.start, group.settings.lock_ms,
        )  # fmt: skip
        if message.watcher is not None:
            self._watch(group, known, message.watcher)
        self._store(group, begun, lambda: reply.set(found), reply.fail)

    def _watch(self, group: Group, places: Sequence[Place], watcher: Watcher) -> None:
        """Woken when there may be something to get. Where too many wait, this one looks again when its time is up."""
        group.waiting = [(held, wanted) for held, wanted in group.waiting if not held.gone]
        if len(group.waiting) < QUEUE_WATCHERS_MAX:
            group.waiting.append((watcher, frozenset(places)))

    def acquire(self, message: Acquire) -> None:
        reply: Reply[Acquired] | None = message.reply
        assert reply is not None
        group = self._of(message.group, message.member_id)
        lock_ms = group.settings.lock_ms if message.lock_ms < 0 else message.lock_ms
        if not QUEUE_LOCK_MS_MIN <= lock_ms <= QUEUE_LOCK_MS_MAX:
            raise InvalidRequest(f"a lock of {lock_ms} ms can't be: {QUEUE_LOCK_MS_MIN} to {QUEUE_LOCK_MS_MAX} can")
        given: dict[Place, tuple[SpanRecord, ...]] = {}
        entries: list[Entry] = []
        left = message.most
        now, wall_ms = self._table.now(), self._table.wall_ms()
        for take in message.takes:
            queue = group.queues.get(take.place)
            if queue is None or left <= 0 or not take.offsets:
                continue
            change = queue.acquire(
                message.member_id, take.offsets, left, lock_ms=lock_ms, now=now, wall_ms=wall_ms,
                read_at=take.read_at, ends=take.ends,
            )  # fmt: skip
            if change.spans:
                given[take.place] = change.spans
                left -= sum(span.last - span.first + 1 for span in change.spans)
                entries += self._entries(group, take.place, change)
                self._table.schedule_at(group, queue.next_due())
        self._store(group, entries, lambda: reply.set(Acquired(given, lock_ms)), reply.fail)

    # --- settling -----------------------------------------------------------------------------------

    def settle(self, message: Settle) -> None:
        """Part by part: all of a part is stored, or nothing of it."""
        reply: Reply[Settled] | None = message.reply
        assert reply is not None
        if sum(len(endings) for _, endings in message.parts) > QUEUE_ENDINGS_MAX:
            raise InvalidRequest(f"a request ends at most {QUEUE_ENDINGS_MAX} ranges of records")
        group = self._table.ready(message.group)
        refused: dict[int, DduomqError] = {}
        left = len(message.parts) + 1
        now, wall_ms, limit = self._table.now(), self._table.wall_ms(), group.settings.deliveries

        def ended(at: int = -1, error: DduomqError | None = None) -> None:
            nonlocal left
            left -= 1
            if error is not None:
                refused[at] = error
            if not left:
                reply.set(Settled(refused, group.settings.lock_ms))

        for at, (place, endings) in enumerate(message.parts):
            try:
                queue = group.queues.get(place)
                if queue is None:
                    raise RecordNotHeld(f"group {group.name!r} has given out nothing of this partition")
                if any(ending.kind in MAY_KILL for ending in endings):
                    self._aside.check_room(group, place)
                was_full = queue.is_full
                change = queue.settle(message.member_id, endings, limit=limit, now=now, wall_ms=wall_ms)
            except DduomqError as error:
                ended(at, error)
            else:
                self._changed(group, place, was_full=was_full)
                self._store(group, self._entries(group, place, change), ended, partial(ended, at))
        ended()

    def release(self, group: Group, member_id: str) -> None:
        """A member has gone: what it has goes to others."""
        self._release(group, member_id, tuple(group.queues))
        group.doubted.discard(member_id)

    def _release(self, group: Group, member_id: str, places: Sequence[Place]) -> None:
        table, limit = self._table, group.settings.deliveries
        for place in places:
            queue = group.queues.get(place)
            if queue is not None:
                change = queue.release(member_id, limit=limit, now=table.now(), wall_ms=table.wall_ms())
                self._note(group, place, change)

    def keep(self, group: Group, member_id: str, held: Mapping[Place, Sequence[tuple[int, int]]]) -> None:
        """A member knows of these records only: others were given to it, but never came."""
        table = self._table
        for place, queue in group.queues.items():
            change = queue.keep(member_id, held.get(place, ()), table.now(), table.wall_ms())
            self._note(group, place, change)

    def release_held(self, message: ReleaseHeld) -> None:
        group = self._table.groups.get(message.group)
        if group is not None and self._table.log.is_loaded:
            self._release(group, message.member_id, message.places)

    def fit(self, message: FitQueue) -> None:
        group = self._table.groups.get(message.group)
        queue = None if group is None else group.queues.get(message.place)
        if group is None or queue is None or not self._table.log.is_loaded:
            return
        if message.end < min(message.read_at, queue.end):  # else the queue has gone on since somebody looked
            queue.cut(message.end)
            key = QueueKey(group.name, QUEUE, message.place)
            self._store(group, [(key, records.encode_queue(queue.end, queue.records()))], lambda: None)
            group.wake(message.place)
        change = queue.trim(message.start, self._table.now(), self._table.wall_ms())
        self._note(group, message.place, change)

    def lose(self, message: LoseRecord) -> None:
        group = self._table.groups.get(message.group)
        queue = None if group is None else group.queues.get(message.place)
        if group is not None and queue is not None and self._table.log.is_loaded:
            table = self._table
            change = queue.lose(message.offset, message.reason, table.now(), table.wall_ms())
            self._note(group, message.place, change)
            group.wake(message.place)

    # --- time ---------------------------------------------------------------------------------------

    def tick(self, group: Group, now: float) -> None:
        """Free what has been locked for too long, or ask who has it; wake who waits for what was put off."""

        def can_ask(member_id: str) -> bool:
            member = None if group.share is None else group.share.members.get(member_id)
            return member is not None and member.can_be_asked

        wall_ms, limit = self._table.wall_ms(), group.settings.deliveries
        for place, queue in group.queues.items():
            if queue.next_due() > now:
                continue
            change, doubts = queue.expire(now, wall_ms, limit=limit, can_ask=can_ask)
            group.doubted.update(doubts)
            self._note(group, place, change)
            if queue.has_ready(now):
                group.wake(place)

    def doubts(self, group: Group, member_id: str) -> dict[Place, list[tuple[int, int]]]:
        """What a member is to be asked about."""
        if member_id not in group.doubted:
            return {}
        found = {place: queue.doubts(member_id) for place, queue in group.queues.items()}
        asked = {place: ranges for place, ranges in found.items() if ranges}
        if not asked:
            group.doubted.discard(member_id)
        return asked

    # --- looking, moving ----------------------------------------------------------------------------

    def describe(self, message: DescribeQueues) -> None:
        assert message.reply is not None
        group = self._table.ready(message.group)
        message.reply.set(
            tuple(
                QueueState(place, queue.start, queue.end, queue.in_flight, queue.acquired)
                for place, queue in group.queues.items()
            )
        )

    def move(self, message: MoveQueues) -> None:
        reply: Reply[None] | None = message.reply
        assert reply is not None
        group = self._table.ready(message.group)
        if group.share is None:
            raise GroupNotFound(f"group {message.group!r} is not a share group")
        if group.member_count:
            raise GroupNotEmpty(f"group {message.group!r} has {group.member_count} members; stop them first")
        entries: list[Entry] = []
        for place, offset in message.starts.items():
            key = QueueKey(group.name, QUEUE, place)
            if offset is None:
                if group.queues.pop(place, None) is not None:
                    entries.append((key, None))
            else:
                group.queues[place] = Queue(offset)
                entries.append((key, records.encode_queue(offset, ())))
        self._store(group, entries, lambda: reply.set(None), reply.fail)

    def configure(self, message: ConfigureQueues) -> None:
        """Settings change for what is given out from now on."""
        reply: Reply[ShareRecord] | None = message.reply
        assert reply is not None
        if not self._table.log.is_loaded:
            raise CoordinatorLoading
        if not message.changes:
            found = self._table.groups.get(message.group)
            reply.set(ShareRecord() if found is None else found.settings)
            return
        group = self._table.ready(message.group, create=True)
        share = group.share or group.shared(is_join=True)
        defaults = attrs.asdict(ShareRecord())
        changes: dict[str, Any] = {name: defaults[name] if v is None else v for name, v in message.changes.items()}
        share.record = attrs.evolve(share.record, **changes)
        group.share_by(share)
        self._store(group, [*share.everything()], lambda: reply.set(share.record), reply.fail)

    def forget(self, group: Group, places: Sequence[Place]) -> None:
        """Their topics are no more."""
        for place in places:
            del group.queues[place]
        entries: list[Entry] = [(QueueKey(group.name, QUEUE, place), None) for place in places]
        self._store(group, entries, lambda: None)

    # --- storing ------------------------------------------------------------------------------------

    def _of(self, name: str, member_id: str) -> Group:
        """The share group of a member. Raises `UnknownMember`, or `GroupNotFound`."""
        group = self._table.of_member(name)
        if group.share is None:
            raise GroupNotFound(f"group {name!r} is not a share group")
        group.share.member(member_id)
        return group

    def _entries(self, group: Group, place: Place, change: Change) -> list[Entry]:
        """A change and what comes of it, to be stored as one."""
        if not change.spans:
            return []
        entries: list[Entry] = [(QueueKey(group.name, QUEUED, place), records.encode_queued(change.spans))]
        most = REASONS_BYTES_MAX // UTF8_MOST // max(1, len(change.dead))  # of a reason, so that all can be stored
        for dead in change.dead:
            entries += self._aside.bury(group, place, attrs.evolve(dead, reason=dead.reason[:most]))
        return entries

    def _note(self, group: Group, place: Place, change: Change) -> None:
        """Store what has changed without anybody's asking."""
        if change.spans:
            self._changed(group, place, was_full=True)
            self._store(group, self._entries(group, place, change), lambda: None)

    def _changed(self, group: Group, place: Place, *, was_full: bool) -> None:
        """Wake who waits, if there is something to get that there was not."""
        queue = group.queues[place]
        if queue.has_ready(self._table.now()) or (was_full and not queue.is_full):
            group.wake(place)
        self._table.schedule_at(group, queue.next_due())

    def _store(
        self, group: Group, entries: list[Entry], then: Callable[[], None],
        fail: Callable[[DduomqError], None] = lambda _error: None,
    ) -> None:  # fmt: skip
        """All of it or nothing; then answer. Without entries the answer need not wait: it says nothing new."""
        if not entries:
            then()
            return
        group.changed_ms = self._table.wall_ms()

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, Acked):
                then()
                return
            fail(result)
            self._on_failure(result)

        self._table.log.store_at_once(entries, stored)
