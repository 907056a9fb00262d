"""How far groups have come, in Kafka's words: OffsetCommit, OffsetFetch, OffsetDelete.

Offsets are kept by a topic's id: a topic that is deleted and made again begins anew for every group.
"""

from collections.abc import Iterable, Mapping

from dduomq.actors.actor import Reply, ask
from dduomq.actors.coordinator_messages import Commit, DeleteOffsets, FetchOffsets
from dduomq.errors import DduomqError, OffsetMetadataTooLarge
from dduomq.groups.records import Committed, Place
from dduomq.limits import OFFSET_METADATA_CHARACTERS_MAX
from dduomq.listeners.admit import Operation
from dduomq.listeners.kafka.asking import Asking, Body
from dduomq.listeners.kafka.codes import code_of
from dduomq.listeners.kafka.groups import coordinator

NOTHING = Committed(-1, -1, "", 0)
MANY_GROUPS_FROM = 8


async def offset_commit(asking: Asking) -> Body:
    """Each partition with its own error; what has none is stored together, or not at all."""
    body = asking.body
    errors: dict[tuple[str, int], int] = {}
    offsets: list[tuple[Place, Committed]] = []
    for topic in body["topics"]:
        for part in topic["partitions"]:
            try:
                offsets.append(_committed(asking, topic["name"], part))
            except DduomqError as error:
                errors[topic["name"], part["partition_index"]] = code_of(error)

    def make(reply: Reply[None]) -> Commit:
        return Commit(
            group=body["group_id"], member_id=body["member_id"], instance_id=body["group_instance_id"],
            generation=body["generation_id_or_member_epoch"], offsets=tuple(offsets), reply=reply,
        )  # fmt: skip

    code = 0
    try:
        await ask(await coordinator(asking, body["group_id"]), make)
    except DduomqError as error:
        code = code_of(error)
    return {
        "topics": [
            {
                "name": topic["name"],
                "partitions": [
                    {
                        "partition_index": part["partition_index"],
                        "error_code": errors.get((topic["name"], part["partition_index"]), code),
                    }
                    for part in topic["partitions"]
                ],
            }
            for topic in body["topics"]
        ]
    }


def _committed(asking: Asking, name: str, part: Body) -> tuple[Place, Committed]:
    services, metadata = asking.services, part["committed_metadata"] or ""
    services.gate.admit(asking.context, Operation.READ, name)
    services.routes.check(name, part["partition_index"])
    if len(metadata) > OFFSET_METADATA_CHARACTERS_MAX:
        raise OffsetMetadataTooLarge(f"{len(metadata)} characters; {OFFSET_METADATA_CHARACTERS_MAX} is the most")
    place = (services.admin.route(name).record.topic_id, part["partition_index"])
    return place, Committed(
        part["committed_offset"], part["committed_leader_epoch"], metadata, services.clock.wall_ms()
    )  # fmt: skip


async def offset_fetch(asking: Asking) -> Body:
    """What is stored; -1 where nothing is. Without topics: everything."""
    body = asking.body
    if asking.version < MANY_GROUPS_FROM:
        return await _fetched(asking, body["group_id"], body["topics"])
    groups = [
        {"group_id": group["group_id"], **await _fetched(asking, group["group_id"], group["topics"])}
        for group in body["groups"]
    ]
    return {"groups": groups}


async def _fetched(asking: Asking, group: str, topics: list[Body] | None) -> Body:
    try:
        mailbox = await coordinator(asking, group, Operation.DESCRIBE)
        held: dict[Place, Committed] = await ask(mailbox, lambda reply: FetchOffsets(group=group, reply=reply))
    except DduomqError as error:
        code = code_of(error)
        wanted = [(topic["name"], topic["partition_indexes"]) for topic in topics or ()]
        failed = [{"name": name, "partitions": [_part(at, NOTHING, code) for at in parts]} for name, parts in wanted]
        return {"topics": failed, "error_code": code}
    return {"topics": _all(asking, held) if topics is None else _some(asking, held, topics), "error_code": 0}


def _all(asking: Asking, held: Mapping[Place, Committed]) -> list[Body]:
    by_topic: dict[str, list[Body]] = {}
    for (topic_id, partition), committed in held.items():
        name = asking.services.routes.name_of(topic_id)
        if name is not None:
            by_topic.setdefault(name, []).append(_part(partition, committed))
    return [{"name": name, "partitions": parts} for name, parts in by_topic.items()]


def _some(asking: Asking, held: Mapping[Place, Committed], topics: Iterable[Body]) -> list[Body]:
    found = []
    for topic in topics:
        route = asking.services.routes.table.get(topic["name"])
        topic_id = "" if route is None else route.record.topic_id
        parts = [_part(at, held.get((topic_id, at), NOTHING)) for at in topic["partition_indexes"]]
        found.append({"name": topic["name"], "partitions": parts})
    return found


def _part(partition: int, committed: Committed, code: int = 0) -> Body:
    return {
        "partition_index": partition,
        "committed_offset": committed.offset,
        "committed_leader_epoch": committed.leader_epoch,
        "metadata": committed.metadata,
        "error_code": code,
    }


async def offset_delete(asking: Asking) -> Body:
    """Forgets offsets of topics that no member subscribes to (KIP-496)."""
    body = asking.body
    routes = asking.services.routes.table
    names = {
        topic["name"]: routes[topic["name"]].record.topic_id for topic in body["topics"] if topic["name"] in routes
    }
    places = {
        (names[topic["name"]], part["partition_index"]): topic["name"]
        for topic in body["topics"]
        if topic["name"] in names
        for part in topic["partitions"]
    }

    def make(reply: Reply[dict[Place, DduomqError]]) -> DeleteOffsets:
        return DeleteOffsets(group=body["group_id"], places=places, reply=reply)

    try:
        refused = await ask(await coordinator(asking, body["group_id"], Operation.DELETE), make)
    except DduomqError as error:
        return {"error_code": code_of(error), "topics": []}
    codes = {place: code_of(error) for place, error in refused.items()}
    return {
        "error_code": 0,
        "topics": [
            {
                "name": topic["name"],
                "partitions": [
                    {
                        "partition_index": part["partition_index"],
                        "error_code": codes.get((names[topic["name"]], part["partition_index"]), 0)
                        if topic["name"] in names
                        else 3,
                    }
                    for part in topic["partitions"]
                ],
            }
            for topic in body["topics"]
        ],
    }
