"""Members whose partitions the broker shares out: heartbeats, answered once what they changed is stored.

Part of the coordinator's actor, not a task. A heartbeat that finds nothing new may be parked: it is answered when
the group changes, so that a member learns of it at once. Always true: an answer waits for every record that it
rests on; when those can't be stored, the coordinator's state is read anew from its log.
"""

from collections.abc import Callable
from math import ceil
from typing import Any

from dduomq.actors.actor import Reply
from dduomq.actors.coordinator_messages import Beaten, GroupBeat
from dduomq.actors.coordinator_table import Group, GroupTable, Parked, RoutesCatalog
from dduomq.actors.partition_messages import Acked
from dduomq.errors import DduomqError, GroupNotFound, UnknownMember
from dduomq.groups.consumer import ConsumerGroup
from dduomq.groups.consumer_member import JOIN, LEAVE, BeatResult
from dduomq.groups.upgrade import upgraded
from dduomq.limits import HEARTBEAT_INTERVAL_MS

PARKED_STEP_S = 0.1  # heartbeats that have waited long enough are answered together: each answer looks at the group


class ConsumerMembers:
    """The coordinator's hands for groups that the broker shares out for. `on_failure`: storing has failed."""

    __slots__ = ("_on_failure", "_table", "catalog")

    def __init__(self, table: GroupTable, on_failure: Callable[[DduomqError], None]) -> None:
        self._table = table
        self._on_failure = on_failure
        self.catalog = RoutesCatalog(table.world.routes)

    def beat(self, message: GroupBeat) -> None:
        reply: Reply[Beaten] | None = message.reply
        assert reply is not None
        table, beat = self._table, message.beat
        is_join = beat.epoch == JOIN
        group = table.ready(message.group, create=True) if is_join else table.of_member(message.group)
        self._unpark(group, beat.member_id)
        try:
            consumer = self._consumer(group, is_join=is_join)
            result = consumer.heartbeat(beat, table.now(), self.catalog)
        except DduomqError:
            self._tidy(group)
            raise
        group.share_out_by(consumer)
        if consumer.has_changed or result.assignment is not None or message.wait_ms <= 0:
            self.settle(group, [(reply, result)])
        else:
            wait_ms = min(message.wait_ms, self._interval_ms(group, beat.member_id))
            deadline = ceil((table.now() + wait_ms / 1000) / PARKED_STEP_S) * PARKED_STEP_S
            group.parked[beat.member_id] = Parked(reply, deadline)
            table.schedule_at(group, min(deadline, consumer.members[beat.member_id].due))

    def _tidy(self, group: Group) -> None:
        """A join that was refused leaves nothing behind."""
        if group.is_unused:
            self._table.forget(group)

    def _consumer(self, group: Group, *, is_join: bool) -> ConsumerGroup:
        """The group's machine; a classic group gets one when the first member of the new protocol comes."""
        group.part_from_sharing(GroupNotFound)
        if group.consumer is not None:
            return group.consumer
        if group.classic.members:
            if not is_join:
                raise UnknownMember(f"group {group.name!r} uses the classic protocol")
            return upgraded(group.classic, self.catalog, self._table.world.assignors, self._table.now())
        consumer = ConsumerGroup(group.name, self._table.world.assignors)
        consumer.epoch = consumer.target_epoch = max(group.classic.generation, 0)
        return consumer

    def _interval_ms(self, group: Group, member_id: str) -> int:
        """Three heartbeats fit into a session."""
        member = None if group.consumer is None else group.consumer.members.get(member_id)
        return HEARTBEAT_INTERVAL_MS if member is None else min(HEARTBEAT_INTERVAL_MS, member.said.session_ms // 3)

    def _unpark(self, group: Group, member_id: str) -> None:
        """A member has sent another heartbeat: the one before has nothing to tell any more."""
        parked = group.parked.pop(member_id, None)
        if parked is not None:
            self._answer(group, parked.reply, self._unchanged(group, member_id))

    def _unchanged(self, group: Group, member_id: str) -> BeatResult:
        member = None if group.consumer is None else group.consumer.members.get(member_id)
        return BeatResult(member_id, -1 if member is None else member.epoch, None)

    def _answer(self, group: Group, reply: Reply[Any], result: BeatResult) -> None:
        if not reply.done:
            interval_ms = self._interval_ms(group, result.member_id)
            reply.set(Beaten(result.member_id, result.epoch, interval_ms, result.assignment))

    def settle(
        self,
        group: Group,
        answers: list[tuple[Reply[Any], BeatResult]],
        then: Callable[[DduomqError | None], None] | None = None,
    ) -> None:
        """Store what has changed, then answer; whoever is parked and has something to learn is answered, too."""
        consumer, table = group.consumer, self._table
        assert consumer is not None
        if consumer.has_changed:
            group.changed_ms = table.wall_ms()
            for member_id, parked in list(group.parked.items()):
                news = consumer.look(member_id, table.now(), self.catalog)
                if news is not None or member_id not in consumer.members:
                    del group.parked[member_id]
                    answers.append((parked.reply, news or BeatResult(member_id, LEAVE, None)))
            self._complain(consumer)
            group.has_changed(table.now())

        def stored(result: Acked | DduomqError) -> None:
            for reply, answer in answers:
                if isinstance(result, Acked):
                    self._answer(group, reply, answer)
                elif not reply.done:
                    reply.fail(result)
            if then is not None:
                then(None if isinstance(result, Acked) else result)
            if isinstance(result, DduomqError):
                self._on_failure(result)

        table.log.store(consumer.changes(group.changed_ms), stored)
        table.schedule(group)

    def _complain(self, consumer: ConsumerGroup) -> None:
        if consumer.complaint is not None:
            self._table.world.log.warning("assignor_failed", group=consumer.name, reason=consumer.complaint)
            consumer.complaint = None

    def tick(self, group: Group, now: float) -> None:
        """Put out whom time has run out for; answer those that have waited long enough."""
        assert group.consumer is not None
        group.consumer.tick(now)
        answers: list[tuple[Reply[Any], BeatResult]] = []
        for member_id, parked in list(group.parked.items()):
            if parked.deadline <= now:
                del group.parked[member_id]
                news = group.consumer.look(member_id, now, self.catalog)
                answers.append((parked.reply, news or self._unchanged(group, member_id)))
        self.settle(group, answers)
