"""Members by the classic protocol: what their requests do to the group's machine, and when it is stored.

Part of the coordinator's actor, not a task.
"""

from collections.abc import Callable

from dduomq.actors.actor import Reply
from dduomq.actors.coordinator_messages import Gone, Heartbeat, Join, Leave, Sync
from dduomq.actors.coordinator_table import Group, GroupTable
from dduomq.actors.coordinator_upgraded import UpgradedMembers
from dduomq.actors.partition_messages import Acked
from dduomq.errors import DduomqError, InconsistentProtocol
from dduomq.groups import records
from dduomq.groups.classic import EMPTY, STABLE
from dduomq.groups.member import JoinResult, SyncResult
from dduomq.groups.records import GroupKey


class ClassicMembers:
    """The coordinator's hands for classic groups; what members of others say goes to `upgraded`."""

    __slots__ = ("_on_failure", "_table", "_upgraded")

    def __init__(
        self, table: GroupTable, upgraded: UpgradedMembers, on_failure: Callable[[DduomqError], None]
    ) -> None:  # fmt: skip
        self._table = table
        self._upgraded = upgraded
        self._on_failure = on_failure

    def join(self, message: Join) -> None:
        reply: Reply[JoinResult] | None = message.reply
        assert reply is not None
        request, table = message.request, self._table
        is_new = not request.member_id
        group = table.ready(message.group, create=True) if is_new else table.of_member(message.group)
        group.part_from_sharing(InconsistentProtocol)
        if group.consumer is not None and group.consumer.members:
            self._upgraded.join(group, message)
            return
        self._take_over(group)
        classic = group.classic
        replaced, at_once = classic.replaced, list[JoinResult]()
        is_called = False

        def answer(result: JoinResult) -> None:
            if is_called:
                reply.set(result)
            else:
                at_once.append(result)

        classic.join(request, table.now(), table.new_id, answer)
        is_called = True
        if at_once and classic.replaced != replaced and classic.state == STABLE:
            self._store_replaced(group, at_once[0], reply)
        elif at_once:
            reply.set(at_once[0])
        self.changed(group)

    def _store_replaced(self, group: Group, result: JoinResult, reply: Reply[JoinResult]) -> None:
        """The generation stays, but one of its members is another process now: also after a restart."""

        def stored(done: Acked | DduomqError) -> None:
            if isinstance(done, DduomqError):
                self._on_failure(done)
            if not reply.done:
                reply.set(result if isinstance(done, Acked) else JoinResult(done, result.member_id))

        group.record = group.classic.record(group.changed_ms)
        self._table.log.store([(GroupKey(group.name), records.encode_group(group.record))], stored)

    def _take_over(self, group: Group) -> None:
        """A group that the broker shared out for goes on by the classic protocol once it is empty."""
        if group.consumer is None:
            return
        group.classic.generation = max(group.classic.generation, group.consumer.epoch)
        group.consumer = None

    def sync(self, message: Sync) -> None:
        reply: Reply[SyncResult] | None = message.reply
        assert reply is not None
        group = self._table.of_member(message.group)
        if group.consumer is not None:
            self._upgraded.sync(group, message)
            return
        is_to_store = group.classic.sync(
            message.member_id, message.instance_id, message.generation, message.assignments, self._table.now(),
            reply.set, protocol_type=message.protocol_type, protocol=message.protocol,
        )  # fmt: skip
        if is_to_store:
            self._store(group)
        self.changed(group)

    def heartbeat(self, message: Heartbeat) -> None:
        assert message.reply is not None
        group = self._table.of_member(message.group)
        if group.consumer is not None:
            self._upgraded.heartbeat(group, message)
            return
        group.classic.heartbeat(message.member_id, message.instance_id, message.generation, self._table.now())
        message.reply.set(None)

    def leave(self, message: Leave) -> None:
        assert message.reply is not None
        group = self._table.of_member(message.group)
        if group.consumer is not None:
            self._upgraded.leave(group, message)
            return
        gone = []
        for member_id, instance_id in message.members:
            try:
                left = group.classic.leave(member_id, instance_id, self._table.now())
            except DduomqError as error:
                gone.append(Gone(member_id, instance_id, error))
            else:
                gone.append(Gone(left, instance_id, None))
        message.reply.set(tuple(gone))
        self.changed(group)

    def changed(self, group: Group) -> None:
        """A group that has become empty says so in the log, too."""
        classic = group.classic
        if classic.state == EMPTY and classic.generation != max(group.stored, 0):
            self._store(group)
        if group.is_unused:
            self._table.forget(group)  # a join that was refused leaves nothing behind
        else:
            group.has_changed(self._table.now())
            self._table.schedule(group)

    def _store(self, group: Group) -> None:
        classic, generation, table = group.classic, group.classic.generation, self._table
        group.stored = generation
        group.changed_ms = table.wall_ms()
        before, group.record = group.record, classic.record(group.changed_ms)
        record = group.record

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, Acked):
                classic.stored(generation, table.now())
            else:
                group.stored = -1
                if group.record is record:
                    group.record = before
                classic.not_stored(generation, table.now())
            table.schedule(group)

        table.log.store([(GroupKey(group.name), records.encode_group(record))], stored)
