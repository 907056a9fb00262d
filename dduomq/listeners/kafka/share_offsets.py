"""How far share groups are, in Kafka's words: to be looked at, moved and forgotten (KIP-932)."""

from collections.abc import Mapping, Sequence

from dduomq.actors.actor import Reply, ask
from dduomq.actors.coordinator_messages import DescribeGroup, GroupDescription
from dduomq.actors.coordinator_queue_messages import DescribeQueues, MoveQueues, QueueState
from dduomq.actors.coordinator_table import SHARE
from dduomq.actors.partition_messages import Describe, PartitionState
from dduomq.errors import DduomqError, GroupNotFound, InvalidRequest, UnknownTopicOrPartition
from dduomq.groups.records import Place
from dduomq.listeners.admit import Operation
from dduomq.listeners.kafka.asking import Asking, Body
from dduomq.listeners.kafka.codes import code_of
from dduomq.listeners.kafka.groups import coordinator
from dduomq.wire.kafka.primitives import NO_ID

NOWHERE = -1
LEADER_EPOCH = 0


async def describe_share_group_offsets(asking: Asking) -> Body:
    """Where each group is in the topics asked for, or in all."""
    return {"groups": [await _described(asking, group) for group in asking.body["groups"]]}


async def _described(asking: Asking, body: Body) -> Body:
    group = body["group_id"]
    try:
        mailbox = await coordinator(asking, group, Operation.DESCRIBE)
        found: GroupDescription = await ask(mailbox, lambda reply: DescribeGroup(group=group, reply=reply))
        if found.overview.kind != SHARE:
            raise GroupNotFound(f"group {group!r} is not a share group")
        states: Sequence[QueueState] = await ask(mailbox, lambda reply: DescribeQueues(group=group, reply=reply))
    except DduomqError as error:
        return {"group_id": group, "topics": [], "error_code": code_of(error), "error_message": error.message}
    known = {state.place: state for state in states}
    wanted = _all(asking, known) if body["topics"] is None else {
        topic["topic_name"]: topic["partitions"] for topic in body["topics"]
    }  # fmt: skip
    topics = [
        {
            "topic_name": name,
            "topic_id": _id_of(asking, name),
            "partitions": [await _part(asking, name, at, known) for at in partitions],
        }
        for name, partitions in wanted.items()
    ]
    return {"group_id": group, "topics": topics, "error_code": 0}


def _all(asking: Asking, known: Mapping[Place, QueueState]) -> dict[str, list[int]]:
    topics: dict[str, list[int]] = {}
    for topic_id, partition in sorted(known):
        name = asking.services.routes.name_of(topic_id)
        if name is not None:
            topics.setdefault(name, []).append(partition)
    return topics


def _id_of(asking: Asking, name: str) -> str:
    route = asking.services.routes.table.get(name)
    return NO_ID if route is None else route.record.topic_id


async def _part(asking: Asking, name: str, partition: int, known: Mapping[Place, QueueState]) -> Body:
    part: Body = {"partition_index": partition, "start_offset": NOWHERE, "leader_epoch": LEADER_EPOCH, "error_code": 0}
    try:
        asking.services.gate.admit(asking.context, Operation.DESCRIBE, name)
        mailbox = asking.services.routes.anywhere(name, partition)
        state = known.get((_id_of(asking, name), partition))
        if state is not None:
            described: PartitionState = await ask(mailbox, lambda reply: Describe(reply=reply))
            part["start_offset"] = state.start
            if described.log is not None:
                part["lag"] = max(0, described.log.high_watermark - state.end) + state.in_flight
    except DduomqError as error:
        return {**part, "error_code": code_of(error), "error_message": error.message}
    return part


async def alter_share_group_offsets(asking: Asking) -> Body:
    """A group without members goes on from other offsets."""
    group, starts = asking.body["group_id"], dict[Place, int | None]()
    responses = []
    for topic in asking.body["topics"]:
        name = topic["topic_name"]
        parts: list[Body] = []
        for part in topic["partitions"]:
            partition, offset = part["partition_index"], part["start_offset"]
            error = _check(asking, name, partition, offset)
            if error is None:
                starts[_id_of(asking, name), partition] = offset
            parts.append({"partition_index": partition, **_error(error)})
        responses.append({"topic_name": name, "topic_id": _id_of(asking, name), "partitions": parts})
    try:
        await _move(asking, group, starts, Operation.READ)
    except DduomqError as error:
        return {"error_code": code_of(error), "error_message": error.message, "responses": []}
    return {"error_code": 0, "responses": responses}


def _check(asking: Asking, name: str, partition: int, offset: int) -> DduomqError | None:
    try:
        asking.services.gate.admit(asking.context, Operation.READ, name)
        asking.services.routes.check(name, partition)
        if offset < 0:
            raise InvalidRequest(f"a queue can't begin at offset {offset}")
    except DduomqError as error:
        return error
    return None


def _error(error: DduomqError | None) -> Body:
    return {"error_code": 0 if error is None else code_of(error), "error_message": None if not error else error.message}


async def delete_share_group_offsets(asking: Asking) -> Body:
    """A group without members forgets how far it is in some topics."""
    group, starts = asking.body["group_id"], dict[Place, int | None]()
    responses = []
    for topic in asking.body["topics"]:
        name, error = topic["topic_name"], None
        route = asking.services.routes.table.get(name)
        if route is None:
            error = UnknownTopicOrPartition()
        else:
            starts |= dict.fromkeys((route.record.topic_id, at) for at in range(len(route.partitions)))
        responses.append({"topic_name": name, "topic_id": _id_of(asking, name), **_error(error)})
    try:
        await _move(asking, group, starts, Operation.DELETE)
    except DduomqError as error:
        return {"error_code": code_of(error), "error_message": error.message, "responses": []}
    return {"error_code": 0, "responses": responses}


async def _move(asking: Asking, group: str, starts: Mapping[Place, int | None], operation: Operation) -> None:
    mailbox = await coordinator(asking, group, operation)

    def make(reply: Reply[None]) -> MoveQueues:
        return MoveQueues(group=group, starts=starts, reply=reply)

    await ask(mailbox, make)
