"""Members that speak the classic protocol in a group that the broker shares out for.

Part of the coordinator's actor, not a task. Each of their requests is a heartbeat: joining says what they want and
what they have, syncing asks what is theirs, a heartbeat is told to join again when there is something to give up or
to get. Nobody waits for anybody: whoever joins is answered at once.
"""

from collections.abc import Callable

from dduomq.actors.actor import Reply
from dduomq.actors.coordinator_messages import Gone, Heartbeat, Join, Leave, Sync
from dduomq.actors.coordinator_table import Group, GroupTable, RoutesCatalog
from dduomq.errors import (
    DduomqError,
    IllegalGeneration,
    InconsistentProtocol,
    RebalanceInProgress,
)
from dduomq.groups.consumer import ConsumerGroup
from dduomq.groups.consumer_member import JOIN, LEAVE, Beat, BeatResult, ConsumerMember
from dduomq.groups.member import JoinRequest, JoinResult, SyncResult
from dduomq.groups.records import Place
from dduomq.groups.subscription import Subscription, read_subscription, write_assignment
from dduomq.groups.upgrade import CONSUMER


class UpgradedMembers:
    """`settle(group, then)` stores what has changed, then calls `then` with the error, if there was one."""

    __slots__ = ("_catalog", "_settle", "_table")

    def __init__(
        self, table: GroupTable, settle: Callable[[Group, Callable[[DduomqError | None], None]], None]
    ) -> None:  # fmt: skip
        self._table = table
        self._settle = settle
        self._catalog = RoutesCatalog(table.world.routes)

    def join(self, group: Group, message: Join) -> None:
        reply: Reply[JoinResult] | None = message.reply
        assert reply is not None
        consumer, request, table = _of(group), message.request, self._table
        protocol, subscription = self._subscription(request)
        member_id = request.member_id or f"{request.instance_id or request.client_id}-{table.new_id()}"
        known = consumer.member(member_id, request.instance_id) if request.member_id else None
        beat = Beat(
            member_id, JOIN if known is None else known.epoch, request.instance_id, request.client_id, request.host,
            None, request.session_ms, request.rebalance_ms, subscription.topics, None, None,
            self._places(subscription), request.protocols, takes_over=not request.member_id,
        )  # fmt: skip
        result = consumer.heartbeat(beat, table.now(), self._catalog)

        def stored(error: DduomqError | None) -> None:
            reply.set(JoinResult(error, member_id) if error else _joined(result, protocol))

        self._settle(group, stored)

    def _subscription(self, request: JoinRequest) -> tuple[str, Subscription]:
        """The first of a member's ways that a consumer speaks."""
        if request.protocol_type == CONSUMER:
            for name, metadata in request.protocols:
                found = read_subscription(metadata)
                if found is not None:
                    return name, found
        raise InconsistentProtocol("the members of this group are consumers")

    def _places(self, subscription: Subscription) -> frozenset[Place]:
        found = ((self._catalog.topic(name), at) for name, at in subscription.owned)
        return frozenset((topic.topic_id, at) for topic, at in found if topic is not None)

    def sync(self, group: Group, message: Sync) -> None:
        reply: Reply[SyncResult] | None = message.reply
        assert reply is not None
        member = self._member(group, message.member_id, message.instance_id, message.generation)
        assert member.said.classic is not None
        protocol = message.protocol or member.said.classic[0][0]
        parts: dict[str, list[int]] = {}
        for topic_id, partition in sorted(member.assigned):
            name = self._table.world.routes.name_of(topic_id)
            if name is not None:
                parts.setdefault(name, []).append(partition)

        def stored(error: DduomqError | None) -> None:
            reply.set(SyncResult(error, write_assignment(parts), CONSUMER, protocol))

        self._settle(group, stored)

    def heartbeat(self, group: Group, message: Heartbeat) -> None:
        reply: Reply[None] | None = message.reply
        assert reply is not None
        member = self._member(group, message.member_id, message.instance_id, message.generation)
        must_join = _of(group).must_join_again(member, self._table.now(), self._catalog)

        def stored(error: DduomqError | None) -> None:
            if error is not None or must_join:
                reply.fail(error or RebalanceInProgress())
            else:
                reply.set(None)

        self._settle(group, stored)

    def _member(self, group: Group, member_id: str, instance_id: str | None, generation: int) -> ConsumerMember:
        member = _of(group).member(member_id, instance_id)
        if member.said.classic is None:
            raise InconsistentProtocol(f"member {member_id!r} joined by the consumer protocol")
        if member.epoch != generation:
            raise IllegalGeneration(f"member {member_id!r} is in generation {member.epoch}, not {generation}")
        member.heard(self._table.now())
        return member

    def leave(self, group: Group, message: Leave) -> None:
        reply: Reply[tuple[Gone, ...]] | None = message.reply
        assert reply is not None
        gone = []
        for member_id, instance_id in message.members:
            found = member_id or self._instance(group, instance_id)
            try:
                beat = Beat(found, LEAVE, instance_id)
                _of(group).heartbeat(beat, self._table.now(), self._catalog)
            except DduomqError as error:
                gone.append(Gone(member_id, instance_id, error))
            else:
                gone.append(Gone(found, instance_id, None))

        def stored(error: DduomqError | None) -> None:
            if error is not None:
                reply.fail(error)
            else:
                reply.set(tuple(gone))

        self._settle(group, stored)

    def _instance(self, group: Group, instance_id: str | None) -> str:
        members = _of(group).members.values()
        return next((m.member_id for m in members if instance_id and m.said.instance_id == instance_id), "")


def _of(group: Group) -> ConsumerGroup:
    assert group.consumer is not None
    return group.consumer


def _joined(result: BeatResult, protocol: str) -> JoinResult:
    """Nobody leads: the broker shares out."""
    return JoinResult(None, result.member_id, result.epoch, CONSUMER, protocol)
