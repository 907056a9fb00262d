"""Who leads and who keeps partitions, in Kafka's words: ElectLeaders, and Alter- and ListPartitionReassignments."""

from collections.abc import Iterable

from dduomq.actors.routes import TopicRoute
from dduomq.cluster.image import PartitionRecord
from dduomq.errors import DduomqError, InvalidReplicaAssignment, InvalidRequest, UnknownTopicOrPartition
from dduomq.limits import PARTITIONS_PER_REQUEST_MAX
from dduomq.listeners.admit import Operation
from dduomq.listeners.kafka.asking import Asking, Body
from dduomq.listeners.kafka.codes import code_of
from dduomq.wire.cluster_errors import ElectionNotNeeded, NoReassignmentInProgress

PREFERRED, UNCLEAN = 0, 1
CLUSTER = "*"


def _route(asking: Asking, topic: str, partition: int) -> TopicRoute:
    """Raises `UnknownTopicOrPartition`, `Unauthorized`."""
    asking.services.gate.admit(asking.context, Operation.ALTER, topic)
    return asking.services.routes.check(topic, partition)


def _result(number: str, partition: int, error: DduomqError | None) -> Body:
    code, message = (0, None) if error is None else (code_of(error), error.message)
    return {number: partition, "error_code": code, "error_message": message}


# --- elections --------------------------------------------------------------------------------------


async def elect_leaders(asking: Asking) -> Body:
    """Preferred leaders, or with an election type of 1 any that lives, of the partitions named, or of all (KIP-460)."""
    body, services = asking.body, asking.services
    try:
        if body.get("election_type", PREFERRED) not in {PREFERRED, UNCLEAN}:
            raise InvalidRequest(f"there is no election of type {body['election_type']}")
        services.gate.admit(asking.context, Operation.ALTER, CLUSTER)
    except DduomqError as error:
        return {"error_code": code_of(error), "replica_election_results": []}
    is_unclean = body.get("election_type", PREFERRED) == UNCLEAN
    named = body["topic_partitions"]
    if named is None:
        wanted = [(name, range(len(route.records))) for name, route in sorted(services.routes.table.items())]
    else:
        wanted = [(topic["topic"], topic["partitions"]) for topic in named]
    results = []
    for topic, partitions in wanted:
        found = []
        for partition in partitions:
            refused = await _elect(asking, topic, partition, is_unclean=is_unclean)
            if named is not None or not isinstance(refused, ElectionNotNeeded):
                found.append(_result("partition_id", partition, refused))
        if found:
            results.append({"topic": topic, "partition_result": found})
    return {"error_code": 0, "replica_election_results": results}


async def _elect(asking: Asking, topic: str, partition: int, *, is_unclean: bool) -> DduomqError | None:
    try:
        route = _route(asking, topic, partition)
        cluster = asking.services.admin.cluster
        if cluster is None:
            raise ElectionNotNeeded(f"this node alone keeps and leads {topic}-{partition}")
        await cluster.elect(route.record, partition, unclean=is_unclean)
    except DduomqError as error:
        return error
    return None


# --- reassignments ----------------------------------------------------------------------------------


async def alter_partition_reassignments(asking: Asking) -> Body:
    """Partitions are to be kept by other nodes; null gives a move up (KIP-455). Done in the background."""
    body = asking.body
    may_change = body.get("allow_replication_factor_change", True)
    responses = []
    for topic in body["topics"]:
        found = [await _alter(asking, topic["name"], part, may_change=may_change) for part in topic["partitions"]]
        responses.append({"name": topic["name"], "partitions": found})
    return {
        "allow_replication_factor_change": may_change, "error_code": 0, "error_message": None, "responses": responses
    }  # fmt: skip


async def _alter(asking: Asking, topic: str, part: Body, *, may_change: bool) -> Body:
    partition, replicas = part["partition_index"], part["replicas"]
    try:
        route = _route(asking, topic, partition)
        record = route.records[partition]
        if replicas is not None and not may_change and len(replicas) != len(_targets(record)):
            raise InvalidReplicaAssignment(
                f"{topic}-{partition} has {len(_targets(record))} replicas, which is not to change"
            )
        cluster = asking.services.admin.cluster
        if cluster is not None:
            await cluster.reassign(route.record, partition, replicas)
        elif replicas is None:
            raise NoReassignmentInProgress(f"{topic}-{partition} is not being moved")
        elif replicas != [asking.services.node_id]:
            raise InvalidReplicaAssignment(f"node {asking.services.node_id} is alone: there are no other nodes")
    except DduomqError as error:
        return _result("partition_index", partition, error)
    return _result("partition_index", partition, None)


def _targets(record: PartitionRecord) -> list[int]:
    """Who keeps the partition when all moves are done."""
    return [node for node in record.replicas if node not in record.removing]


async def list_partition_reassignments(asking: Asking) -> Body:
    """What is being moved, of the partitions named, or of all."""
    services, named = asking.services, asking.body["topics"]
    try:
        services.gate.admit(asking.context, Operation.DESCRIBE, CLUSTER)
        if named is None:
            wanted: Iterable[tuple[str, Iterable[int] | None]] = [
                (name, None) for name in sorted(services.routes.table)
            ]
        else:
            wanted = [(topic["name"], topic["partition_indexes"]) for topic in named]
        topics = [found for name, numbers in wanted if (found := _moving(asking, name, numbers))["partitions"]]
    except DduomqError as error:
        return {"error_code": code_of(error), "error_message": error.message, "topics": []}
    return {"error_code": 0, "error_message": None, "topics": topics}


def _moving(asking: Asking, name: str, numbers: Iterable[int] | None) -> Body:
    route = asking.services.routes.table.get(name)
    if route is None:
        raise UnknownTopicOrPartition(f"there is no topic {name!r}")
    known = range(len(route.records))
    chosen = known if numbers is None else [at for at in numbers if at in known][:PARTITIONS_PER_REQUEST_MAX]
    moving = [route.records[at] for at in chosen if route.records[at].adding or route.records[at].removing]
    return {
        "name": name,
        "partitions": [
            {
                "partition_index": record.partition, "replicas": list(record.replicas),
                "adding_replicas": list(record.adding), "removing_replicas": list(record.removing),
            }
            for record in moving
        ],
    }  # fmt: skip
