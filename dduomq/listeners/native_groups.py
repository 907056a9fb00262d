"""The native protocol's requests about groups, carried out."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dduomq.actors.actor import Mailbox, Reply, ask
from dduomq.actors.coordinator_messages import (
    Beaten,
    Commit,
    ConsumerDescription,
    DeleteGroup,
    DeleteOffsets,
    DescribeGroup,
    FetchAside,
    FetchOffsets,
    GroupBeat,
    GroupDescription,
    GroupOverview,
    ListGroups,
    RemoveMember,
)
from dduomq.actors.partition_messages import Describe, PartitionState
from dduomq.errors import (
    DduomqError,
    GroupNotFound,
    InvalidRequest,
    LeaderNotAvailable,
    OffsetMetadataTooLarge,
    OffsetOutOfRange,
)
from dduomq.groups.consumer_member import Beat
from dduomq.groups.records import Committed, MemberRecord, Place, encode_places
from dduomq.groups.subscription import read_assignment, topics_of
from dduomq.ids import RETRY
from dduomq.limits import OFFSET_METADATA_CHARACTERS_MAX
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.services import Services
from dduomq.wire import native
from dduomq.wire import native_groups as wire

LEADER_EPOCHS = 2**31


async def _coordinator(services: Services, context: Context, group: str, operation: Operation) -> Mailbox:
    services.gate.admit(context, operation, f"group:{group}")
    return await services.groups.coordinator(group)


async def _heartbeat(services: Services, context: Context, body: wire.GroupHeartbeat) -> wire.GroupHeartbeatAnswer:
    for name in body.topics or ():
        services.gate.admit(context, Operation.READ, name)
    owned = None
    if body.owned is not None:
        owned = frozenset((part.topic_id, at) for part in body.owned for at in part.partitions)
    topics = body.topics
    if topics is not None and body.retry:
        topics = (*topics, services.topics.name(RETRY, body.group))
    beat = Beat(
        body.member_id, body.member_epoch, body.instance_id, context.client, context.peer, body.zone, body.session_ms,
        body.rebalance_ms, topics, body.pattern, body.assignor, owned,
    )  # fmt: skip
    mailbox = await _coordinator(services, context, body.group, Operation.READ)

    def make(reply: Reply[Beaten]) -> GroupBeat:
        return GroupBeat(group=body.group, beat=beat, wait_ms=body.wait_ms, reply=reply)

    beaten = await ask(mailbox, make)
    assignment = None if beaten.assignment is None else _assigned(services, beaten.assignment, body.group)
    return wire.GroupHeartbeatAnswer(beaten.epoch, beaten.interval_ms, assignment)


def _assigned(services: Services, places: frozenset[Place], group: str) -> tuple[wire.AssignedPart, ...]:
    """By topic; what belongs to a topic that is no more is left out. Another group's retry topic is like any other."""
    table, names = services.routes.table, services.routes.name_of
    return tuple(
        wire.AssignedPart(
            topic_id, name, tuple(partitions), table[name].record.kind if table[name].record.group == group else ""
        )
        for topic_id, partitions in encode_places(places)
        if (name := names(topic_id)) is not None
    )


# --- offsets ----------------------------------------------------------------------------------------


async def _commit(services: Services, context: Context, body: wire.CommitOffsets) -> wire.OffsetsCommitted:
    """Each part with its own error; what has none is stored together."""
    offsets: dict[Place, Committed] = {}
    results: list[DduomqError | Place] = []
    for part in body.parts:
        try:
            place, committed = await _committed(services, context, part)
        except DduomqError as error:
            results.append(error)
        else:
            offsets[place] = committed
            results.append(place)
    mailbox = await _coordinator(services, context, body.group, Operation.READ)

    def make(reply: Reply[dict[Place, DduomqError]]) -> Commit:
        return Commit(
            group=body.group, member_id=body.member_id, instance_id=None, generation=body.member_epoch,
            offsets=tuple(offsets.items()), is_strict=True, rewind=body.rewind, reply=reply,
        )  # fmt: skip

    refused = await ask(mailbox, make)
    errors = [result if isinstance(result, DduomqError) else refused.get(result) for result in results]
    return wire.OffsetsCommitted(
        tuple(
            wire.CommittedPart(error.code, error.message) if error else wire.CommittedPart(0, None) for error in errors
        )
    )


async def _committed(services: Services, context: Context, part: wire.CommitPart) -> tuple[Place, Committed]:
    services.gate.admit(context, Operation.READ, part.topic)
    mailbox = services.routes.anywhere(part.topic, part.partition)
    if len(part.metadata) > OFFSET_METADATA_CHARACTERS_MAX:
        raise OffsetMetadataTooLarge(f"{len(part.metadata)} characters; {OFFSET_METADATA_CHARACTERS_MAX} is the most")
    if not -1 <= part.leader_epoch < LEADER_EPOCHS:
        raise InvalidRequest(f"leader epoch {part.leader_epoch} can't be")
    if part.offset < 0:
        raise InvalidRequest(f"offset {part.offset} can't be committed: offsets begin at 0")
    state: PartitionState = await ask(mailbox, lambda reply: Describe(reply=reply))
    if state.log is None:
        raise LeaderNotAvailable(f"{part.topic}-{part.partition} is {state.reason or state.state}")
    if not state.log.log_start_offset <= part.offset <= state.log.log_end_offset:
        raise OffsetOutOfRange(
            f"offset {part.offset} of {part.topic}-{part.partition} can't be committed: "
            f"it has {state.log.log_start_offset} to {state.log.log_end_offset}"
        )
    services.routes.check_id(part.topic, part.topic_id)
    place = (services.admin.route(part.topic).record.topic_id, part.partition)
    return place, Committed(part.offset, part.leader_epoch, part.metadata, services.clock.wall_ms())


async def _fetch_committed(services: Services, context: Context, body: wire.FetchCommitted) -> wire.GroupOffsets:
    mailbox = await _coordinator(services, context, body.group, Operation.DESCRIBE)
    aside = await _fetch_aside(services, mailbox, body)
    held: dict[Place, Committed] = await ask(mailbox, lambda reply: FetchOffsets(group=body.group, reply=reply))
    names = services.routes.name_of
    found = []
    for (topic_id, partition), committed in sorted(held.items()):
        name = names(topic_id)
        if name is not None and (body.topics is None or name in body.topics):
            found.append(
                wire.GroupOffset(
                    name, partition, committed.offset, committed.leader_epoch, committed.metadata, committed.commit_ms
                )
            )
    return wire.GroupOffsets(tuple(found), aside)


async def _fetch_aside(services: Services, mailbox: Mailbox, body: wire.FetchCommitted) -> tuple[wire.GroupAside, ...]:
    """What is set aside, asked for before the offsets: a commit meanwhile makes it more than is needed, never less."""
    try:
        held: dict[Place, tuple[int, ...]] = await ask(mailbox, lambda reply: FetchAside(group=body.group, reply=reply))
    except GroupNotFound:
        return ()
    names = services.routes.name_of
    found = [(name, partition, ranges) for (topic_id, partition), ranges in held.items() if (name := names(topic_id))]
    return tuple(wire.GroupAside(*one) for one in sorted(found) if body.topics is None or one[0] in body.topics)


async def _forget(services: Services, context: Context, body: wire.ForgetOffsets) -> native.Done:
    route = services.admin.route(body.topic)
    partitions = range(len(route.partitions)) if body.partitions is None else body.partitions
    places = {(route.record.topic_id, at): body.topic for at in partitions}
    mailbox = await _coordinator(services, context, body.group, Operation.DELETE)

    def make(reply: Reply[dict[Place, DduomqError]]) -> DeleteOffsets:
        return DeleteOffsets(group=body.group, places=places, reply=reply)

    for error in (await ask(mailbox, make)).values():
        raise error
    return native.Done()


# --- looking and deleting ---------------------------------------------------------------------------


async def _list(services: Services, context: Context, _body: wire.ListGroups) -> wire.GroupsListed:
    found: list[GroupOverview] = []
    for mailbox in await services.groups.all():
        found += await ask(mailbox, lambda reply: ListGroups(reply=reply))
    listed = []
    for group in sorted(found, key=lambda group: group.name):
        try:
            services.gate.admit(context, Operation.DESCRIBE, f"group:{group.name}")
        except DduomqError:
            continue
        listed.append(wire.GroupListing(group.name, group.kind, group.state, group.members))
    return wire.GroupsListed(tuple(listed))


async def _describe(services: Services, context: Context, body: wire.DescribeGroup) -> wire.GroupDescription:
    mailbox = await _coordinator(services, context, body.group, Operation.DESCRIBE)

    def make(reply: Reply[GroupDescription]) -> DescribeGroup:
        return DescribeGroup(group=body.group, since=body.since, wait_ms=body.wait_ms, reply=reply)

    found = await ask(mailbox, make)
    members = [_classic_member(services, found, member, metadata) for member, metadata in found.members]
    members += [_member(services, member, body.group) for member in found.consumers]
    overview = found.overview
    return wire.GroupDescription(
        overview.name, overview.kind, overview.state, found.generation, found.protocol, tuple(members), found.version
    )


def _member(services: Services, member: ConsumerDescription, group: str) -> wire.GroupMember:
    said, current = member.said, member.current
    topics = said.topics if said.pattern is None else (*said.topics, f"/{said.pattern}/")
    return wire.GroupMember(
        member.member_id, said.instance_id, said.client_id, said.host, said.zone, current.epoch, current.state, topics,
        _assigned(services, current.assigned, group),
    )  # fmt: skip


def _classic_member(
    services: Services, found: GroupDescription, member: MemberRecord, metadata: bytes
) -> wire.GroupMember:
    """What a classic consumer's own protocol says; of other kinds of members, nothing."""
    routes = services.routes.table
    assignment = tuple(
        wire.AssignedPart(routes[name].record.topic_id if name in routes else "", name, tuple(partitions))
        for name, partitions in read_assignment(member.assignment).items()
    )
    return wire.GroupMember(
        member.member_id, member.instance_id, member.client_id, member.host, None, found.generation, "stable",
        tuple(topics_of(metadata)), assignment,
    )  # fmt: skip


async def _delete(services: Services, context: Context, body: wire.DeleteGroup) -> native.Done:
    mailbox = await _coordinator(services, context, body.group, Operation.DELETE)
    await ask(mailbox, lambda reply: DeleteGroup(group=body.group, reply=reply))
    return native.Done()


async def _remove_member(services: Services, context: Context, body: wire.RemoveMember) -> native.Done:
    mailbox = await _coordinator(services, context, body.group, Operation.ALTER)

    def make(reply: Reply[None]) -> RemoveMember:
        return RemoveMember(group=body.group, member_id=body.member_id, reply=reply)

    await ask(mailbox, make)
    return native.Done()


HANDLERS: Mapping[type, Callable[[Services, Context, Any], Awaitable[object]]] = {
    wire.GroupHeartbeat: _heartbeat,
    wire.CommitOffsets: _commit,
    wire.FetchCommitted: _fetch_committed,
    wire.ForgetOffsets: _forget,
    wire.ListGroups: _list,
    wire.DescribeGroup: _describe,
    wire.DeleteGroup: _delete,
    wire.RemoveMember: _remove_member,
}
