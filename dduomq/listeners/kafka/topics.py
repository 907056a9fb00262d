"""Topics in Kafka's words: Metadata, CreateTopics, DeleteTopics, CreatePartitions, DescribeTopicPartitions."""

from collections import Counter
from collections.abc import Sequence

from dduomq.actors.routes import TopicRoute
from dduomq.cluster.image import NO_LEADER, PartitionRecord, TopicRecord
from dduomq.errors import (
    DduomqError,
    InvalidPartitions,
    InvalidReplicationFactor,
    InvalidRequest,
    LeaderNotAvailable,
    UnknownTopicOrPartition,
)
from dduomq.ids import INTERNAL_PREFIX
from dduomq.limits import PARTITIONS_PER_REQUEST_MAX
from dduomq.listeners.admit import Operation
from dduomq.listeners.kafka.asking import Asking, Body
from dduomq.listeners.kafka.codes import code_of
from dduomq.listeners.kafka.configs import topic_entries
from dduomq.listeners.services import Services
from dduomq.wire.kafka.primitives import NO_ID

DEFAULT = -1  # for partitions and replicas: what the node's configuration says


# --- metadata ---------------------------------------------------------------------------------------


async def metadata(asking: Asking) -> Body:
    """This node, and the topics asked for: none named means all; a named one is made if that is allowed."""
    services, body = asking.services, asking.body
    wanted = body["topics"]
    if wanted is None or (asking.version == 0 and not wanted):
        topics = [
            _known(services, route)
            for _, route in sorted(services.routes.table.items())
            if _may_see(asking, route.record.name)
        ]
    else:
        topics = [await _topic(asking, topic) for topic in wanted]
    return {
        "brokers": [
            {"node_id": node.node_id, "host": node.host, "port": node.port}
            for node in services.nodes(asking.context.listener)
        ],
        "cluster_id": services.cluster_id(),
        "controller_id": services.controller(),
        "topics": topics,
    }  # fmt: skip


def _may_see(asking: Asking, name: str) -> bool:
    try:
        asking.services.gate.admit(asking.context, Operation.DESCRIBE, name)
    except DduomqError:
        return False
    return True


async def _topic(asking: Asking, topic: Body) -> Body:
    services, name = asking.services, topic["name"]
    try:
        name = asking.topic_name(name, topic["topic_id"])
        services.gate.admit(asking.context, Operation.DESCRIBE, name)
        if name not in services.routes.table and asking.body["allow_auto_topic_creation"]:
            services.gate.admit(asking.context, Operation.CREATE, name)
            await services.admin.create_on_use(name)
        return _known(services, services.admin.route(name))
    except DduomqError as error:
        shown = name if name is not None or asking.version >= 12 else ""
        return {"error_code": code_of(error), "name": shown, "topic_id": topic["topic_id"], "partitions": []}


def _known(services: Services, route: TopicRoute) -> Body:
    record = route.record
    return {
        "error_code": 0,
        "name": record.name,
        "topic_id": record.topic_id,
        "is_internal": record.name.startswith(INTERNAL_PREFIX),
        "partitions": _partitions(services, route),
    }


def _partitions(services: Services, route: TopicRoute) -> list[Body]:
    alive = {node.node_id for node in services.nodes("")}
    return [_partition(record, alive) for record in route.records]


def _partition(record: PartitionRecord, alive: set[int]) -> Body:
    """A leader that is not there is none: clients are told only of nodes that they are told how to reach."""
    leader = record.leader if record.leader in alive else NO_LEADER
    return {
        "error_code": LeaderNotAvailable.code if leader == NO_LEADER else 0,
        "partition_index": record.partition,
        "leader_id": leader,
        "leader_epoch": record.leader_epoch,
        "replica_nodes": list(record.replicas),
        "isr_nodes": list(record.isr),
        "offline_replicas": [node for node in record.replicas if node not in alive],
    }


async def describe_topic_partitions(asking: Asking) -> Body:
    """The partitions of many topics, page by page (KIP-966); no name means all topics."""
    services, body = asking.services, asking.body
    names = sorted({topic["name"] for topic in body["topics"]} or services.routes.table)
    cursor = body["cursor"]
    left = min(max(body["response_partition_limit"], 1), PARTITIONS_PER_REQUEST_MAX)
    topics: list[Body] = []
    for name in names:
        first = 0
        if cursor is not None:
            if name < cursor["topic_name"]:
                continue
            first = max(cursor["partition_index"], 0) if name == cursor["topic_name"] else 0
        if left <= 0:
            return {"topics": topics, "next_cursor": {"topic_name": name, "partition_index": first}}
        topic = _described(asking, name)
        rest = topic["partitions"][first:]
        topics.append({**topic, "partitions": rest[:left]})
        if len(rest) > left:
            return {"topics": topics, "next_cursor": {"topic_name": name, "partition_index": first + left}}
        left -= len(rest)
    return {"topics": topics}


def _described(asking: Asking, name: str) -> Body:
    try:
        asking.services.gate.admit(asking.context, Operation.DESCRIBE, name)
        topic = _known(asking.services, asking.services.admin.route(name))
    except DduomqError as error:
        return {"error_code": code_of(error), "name": name, "partitions": []}
    nobody: Body = {"eligible_leader_replicas": [], "last_known_elr": []}  # Java's client can't do with null here
    return {**topic, "partitions": [{**part, **nobody} for part in topic["partitions"]]}


# --- making and deleting ----------------------------------------------------------------------------


async def create_topics(asking: Asking) -> Body:
    """Each topic with its own result; one that is named twice is made by neither."""
    names = Counter(topic["name"] for topic in asking.body["topics"])
    return {"topics": [await _create(asking, topic, named=names[topic["name"]]) for topic in asking.body["topics"]]}


async def _create(asking: Asking, topic: Body, *, named: int) -> Body:
    name, config = topic["name"], {entry["name"]: entry["value"] for entry in topic["configs"]}
    try:
        if named > 1:
            raise InvalidRequest(f"topic {name!r} is named {named} times")
        partitions, replication, assignment = _asked_for(topic, asking.services)
        asking.services.gate.admit(asking.context, Operation.CREATE, name)
        record = await asking.services.admin.create_topic(
            name,
            partitions=partitions,
            replication=replication,
            config={key: value for key, value in config.items() if value is not None},
            validate_only=asking.body["validate_only"],
            assignment=assignment,
        )
    except DduomqError as error:
        return {"name": name, "error_code": code_of(error), "error_message": error.message, "configs": None}
    return _created(asking.services, record)


def _asked_for(topic: Body, services: Services) -> tuple[int, int, list[list[int]] | None]:
    """(partitions, replicas, assignment), 0 for the default; a node alone can only be assigned what it has anyway."""
    count, replication = topic["num_partitions"], topic["replication_factor"]
    assigned = {entry["partition_index"]: entry["broker_ids"] for entry in topic["assignments"]}
    if assigned:
        if count != DEFAULT or replication != DEFAULT:
            raise InvalidRequest("give either the numbers of partitions and replicas or the assignments, not both")
        if sorted(assigned) != list(range(len(assigned))):
            raise InvalidRequest("the assigned partitions must be numbered from 0 on without a gap")
        assignment = [assigned[at] for at in range(len(assigned))]
        _check_assigned(services, assignment)
        return len(assigned), 0, assignment
    if count < 1 and count != DEFAULT:
        raise InvalidPartitions(f"{count} partitions can't be; -1 takes the node's default")
    if replication < 1 and replication != DEFAULT:
        raise InvalidReplicationFactor(f"{replication} replicas can't be; -1 takes the default")
    return max(count, 0), max(replication, 0), None


def _check_assigned(services: Services, assignment: Sequence[Sequence[int]]) -> None:
    if services.admin.cluster is None and any(list(nodes) != [services.node_id] for nodes in assignment):
        raise InvalidReplicationFactor(f"partitions can be assigned to node {services.node_id} only")


def _created(services: Services, record: TopicRecord) -> Body:
    return {
        "name": record.name,
        "topic_id": record.topic_id,
        "error_code": 0,
        "error_message": None,
        "num_partitions": record.partitions,
        "replication_factor": record.replication,
        "configs": topic_entries(services.admin.config_of_record(record)),
    }


async def delete_topics(asking: Asking) -> Body:
    """By name, or from version 6 on by id."""
    body = asking.body
    wanted = (
        body["topics"] if asking.version >= 6 else [{"name": name, "topic_id": NO_ID} for name in body["topic_names"]]
    )
    return {"responses": [await _delete(asking, topic) for topic in wanted]}  # fmt: skip


async def _delete(asking: Asking, topic: Body) -> Body:
    name, topic_id = topic["name"], topic["topic_id"]
    try:
        if (name is None) == (topic_id == NO_ID):
            raise InvalidRequest("a topic is named or given by its id, not both")
        name = asking.topic_name(name, topic_id)
        asking.services.gate.admit(asking.context, Operation.DELETE, name)
        route = asking.services.routes.table.get(name)
        topic_id = topic_id if route is None else route.record.topic_id
        await asking.services.admin.delete_topic(name)
    except DduomqError as error:
        return {"name": name, "topic_id": topic_id, "error_code": code_of(error), "error_message": error.message}
    return {"name": name, "topic_id": topic_id, "error_code": 0}


async def create_partitions(asking: Asking) -> Body:
    """Raises topics to the number of partitions given."""
    results = []
    for topic in asking.body["topics"]:
        result: Body = {"name": topic["name"], "error_code": 0}
        try:
            await _grow(asking, topic)
        except DduomqError as error:
            result |= {"error_code": code_of(error), "error_message": error.message}
        results.append(result)
    return {"results": results}


async def _grow(asking: Asking, topic: Body) -> None:
    services, name, count = asking.services, topic["name"], topic["count"]
    services.gate.admit(asking.context, Operation.ALTER, name)
    held = services.routes.table.get(name)
    if held is None:
        raise UnknownTopicOrPartition(f"there is no topic {name!r}")
    assigned, assignment = topic["assignments"], None
    if assigned is not None:
        if len(assigned) != count - held.record.partitions:
            raise InvalidRequest(f"{count - held.record.partitions} partitions are new, {len(assigned)} are assigned")
        assignment = [entry["broker_ids"] for entry in assigned]
        _check_assigned(services, assignment)
    await services.admin.add_partitions(name, count, validate_only=asking.body["validate_only"], assignment=assignment)
