"""Members of share groups: heartbeats, answered once the group's epoch is stored; questions about what is in doubt.

Part of the coordinator's actor, not a task. A native member's heartbeat is parked while there is nothing new. Always
true: a group has members of one kind; a member that is out has nothing locked any more.
"""

from collections.abc import Callable
from math import ceil
from typing import Any

from dduomq.actors.actor import Reply
from dduomq.actors.coordinator_consumer import PARKED_STEP_S
from dduomq.actors.coordinator_queue import Queues
from dduomq.actors.coordinator_queue_messages import BeatOfShare, ShareBeaten
from dduomq.actors.coordinator_table import Group, GroupTable, Parked, RoutesCatalog
from dduomq.actors.partition_messages import Acked
from dduomq.errors import DduomqError
from dduomq.groups.consumer_member import JOIN, LEAVE
from dduomq.groups.records import ShareKey, decode_share
from dduomq.groups.share import ShareGroup, ShareResult
from dduomq.limits import HEARTBEAT_INTERVAL_MS


class ShareMembers:
    """The coordinator's hands for the members of share groups. `on_failure`: storing has failed."""

    __slots__ = ("_catalog", "_on_failure", "_queues", "_table")

    def __init__(self, table: GroupTable, queues: Queues, on_failure: Callable[[DduomqError], None]) -> None:
        self._table = table
        self._queues = queues
        self._on_failure = on_failure
        self._catalog = RoutesCatalog(table.world.routes)

    def apply(self, key: ShareKey, value: bytes | None) -> None:
        """What a record says is so."""
        if value is not None:
            group = self._table.get_or_make(key.group)
            record = decode_share(value)
            group.share_by(ShareGroup(key.group, record))
            group.changed_ms = record.changed_ms

    def loaded(self) -> None:
        """The log is read: whoever has records in hand is expected back."""
        for group in self._table.groups.values():
            if group.share is not None:
                holders = {one for queue in group.queues.values() for one in queue.holders()}
                group.share.expect(sorted(holders), self._table.now())
                self._table.schedule(group)

    def beat(self, message: BeatOfShare) -> None:
        reply: Reply[ShareBeaten] | None = message.reply
        assert reply is not None
        table, beat = self._table, message.beat
        is_join = beat.epoch == JOIN
        group = table.ready(message.group, create=True) if is_join else table.of_member(message.group)
        self._unpark(group, beat.member_id)
        try:
            share = group.share or group.shared(is_join=is_join)
            result = share.heartbeat(beat, table.now(), self._catalog)
        except DduomqError:
            if group.is_unused:
                table.forget(group)
            raise
        group.share_by(share)
        if message.held is not None:
            self._queues.keep(group, beat.member_id, message.held)
        if beat.epoch == LEAVE:
            self._queues.release(group, beat.member_id)
        is_news = share.is_dirty or result.assignment is not None or message.wait_ms <= 0
        if is_news or self._queues.doubts(group, beat.member_id):
            self.settle(group, [(reply, result)])
            return
        wait_ms = min(message.wait_ms, self._interval_ms(group, beat.member_id))
        deadline = ceil((table.now() + wait_ms / 1000) / PARKED_STEP_S) * PARKED_STEP_S
        group.parked[beat.member_id] = Parked(reply, deadline)
        table.schedule_at(group, min(deadline, share.members[beat.member_id].due))

    def remove(self, group: Group, member_id: str) -> None:
        """Somebody wants it out. Raises `UnknownMember`."""
        assert group.share is not None
        group.share.remove(member_id)
        self._queues.release(group, member_id)

    def _interval_ms(self, group: Group, member_id: str) -> int:
        """Three heartbeats fit into a session."""
        member = None if group.share is None else group.share.members.get(member_id)
        return HEARTBEAT_INTERVAL_MS if member is None else min(HEARTBEAT_INTERVAL_MS, member.said.session_ms // 3)

    def _unpark(self, group: Group, member_id: str) -> None:
        """A member has sent another heartbeat: the one before has nothing to tell any more."""
        parked = group.parked.pop(member_id, None)
        if parked is not None:
            self._answer(group, parked.reply, self._unchanged(group, member_id))

    def _unchanged(self, group: Group, member_id: str) -> ShareResult:
        member = None if group.share is None else group.share.members.get(member_id)
        return ShareResult(member_id, LEAVE if member is None else member.epoch, None)

    def _answer(self, group: Group, reply: Reply[Any], result: ShareResult) -> None:
        if not reply.done:
            doubts = self._queues.doubts(group, result.member_id)
            interval_ms = self._interval_ms(group, result.member_id)
            reply.set(ShareBeaten(result.member_id, result.epoch, interval_ms, result.assignment, doubts))

    def settle(self, group: Group, answers: list[tuple[Reply[Any], ShareResult]]) -> None:
        """Store what has changed, then answer; whoever is parked and has something to learn is answered, too."""
        share, table = group.share, self._table
        assert share is not None
        if share.is_dirty:
            group.changed_ms = table.wall_ms()
            for member_id, parked in list(group.parked.items()):
                news = share.look(member_id, self._catalog)
                if news is not None or member_id not in share.members:
                    del group.parked[member_id]
                    answers.append((parked.reply, news or ShareResult(member_id, LEAVE, None)))
            group.has_changed(table.now())

        def stored(result: Acked | DduomqError) -> None:
            for reply, answer in answers:
                if isinstance(result, Acked):
                    self._answer(group, reply, answer)
                elif not reply.done:
                    reply.fail(result)
            if isinstance(result, DduomqError):
                self._on_failure(result)

        table.log.store(list(share.changes(group.changed_ms)), stored)
        table.schedule(group)

    def tick(self, group: Group, now: float) -> None:
        """Put out whom time has run out for; answer who has waited long enough, or is to be asked."""
        share = group.share
        assert share is not None
        for member_id in share.tick(now):
            self._queues.release(group, member_id)
        answers: list[tuple[Reply[Any], ShareResult]] = []
        for member_id, parked in list(group.parked.items()):
            if parked.deadline <= now or member_id in group.doubted:
                del group.parked[member_id]
                news = share.look(member_id, self._catalog)
                answers.append((parked.reply, news or self._unchanged(group, member_id)))
        self.settle(group, answers)
