"""The native protocol's requests about the cluster, carried out."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from dduomq.actors.cluster_admin import ClusterAdmin, Standing
from dduomq.cluster.image import NO_LEADER, PartitionRecord
from dduomq.errors import DduomqError, InvalidRequest
from dduomq.limits import PARTITIONS_PER_REQUEST_MAX
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.services import Services
from dduomq.wire import native
from dduomq.wire import native_cluster as wire
from dduomq.wire.cluster_errors import NoCluster

EVERYTHING = "*"
MOST = 1_000  # partitions that are named one by one


def _cluster(services: Services) -> ClusterAdmin:
    """Raises `NoCluster` with what to do."""
    if services.admin.cluster is None:
        raise NoCluster("this node runs alone; a cluster is started with --peers, the same on each of its nodes")
    return services.admin.cluster


# --- what there is ----------------------------------------------------------------------------------


async def _describe(services: Services, context: Context, _body: wire.DescribeCluster) -> wire.ClusterDescription:
    services.gate.admit(context, Operation.DESCRIBE, EVERYTHING)
    if services.admin.cluster is None:
        return _alone(services, context)
    cluster = services.admin.cluster
    standing = await cluster.standing()
    records = standing.records
    return wire.ClusterDescription(
        services.cluster_id(),
        standing.controller,
        standing.controller_epoch,
        _nodes(services, context, cluster, standing),
        len(records),
        _names(record for record in records if len(record.isr) < len(record.replicas)),
        _names(record for record in records if record.leader == NO_LEADER),
        sum(1 for record in records if record.adding or record.removing),
    )


def _alone(services: Services, context: Context) -> wire.ClusterDescription:
    count = sum(len(route.partitions) for route in services.routes.table.values())
    address = services.node(context.listener, services.node_id)
    host, port = ("", 0) if address is None else (address.host, address.port)
    here = wire.NodeStatus(services.node_id, host, port, "", 0, True, False, count, count)
    return wire.ClusterDescription(services.cluster_id(), services.node_id, 0, (here,), count, (), (), 0)


def _names(records: Iterable[PartitionRecord]) -> tuple[wire.PartitionName, ...]:
    names = sorted((record.topic, record.partition) for record in records)
    return tuple(wire.PartitionName(*name) for name in names[:MOST])


def _nodes(
    services: Services, context: Context, cluster: ClusterAdmin, standing: Standing
) -> tuple[wire.NodeStatus, ...]:
    """All that belong to the cluster, alive or not, and where clients of that listener reach them."""
    nodes = cluster.registration.nodes
    leads = Counter(record.leader for record in standing.records)
    keeps = Counter(node for record in standing.records for node in record.replicas)
    told = []
    for node in sorted({*cluster.known, *keeps}):
        record, address = nodes.records.get(node), services.node(context.listener, node)
        host, port = ("", 0) if address is None else (address.host, address.port)
        zone = "" if record is None else record.zone
        is_draining = node in nodes.draining
        told.append(
            wire.NodeStatus(
                node, host, port, zone, nodes.epoch(node), record is not None, is_draining, leads[node], keeps[node]
            )
        )
    return tuple(told)


async def _places(services: Services, context: Context, body: wire.DescribePartitions) -> wire.PartitionPlaces:
    services.gate.admit(context, Operation.DESCRIBE, EVERYTHING)
    wanted = None if body.topics is None else set(body.topics)
    for name in body.topics or ():
        services.admin.route(name)
    records = await _cluster(services).records()
    chosen = [
        record
        for record in records
        if (wanted is None or record.topic in wanted) and (not body.moving or record.adding or record.removing)
    ]
    if len(chosen) > PARTITIONS_PER_REQUEST_MAX:
        raise InvalidRequest(f"there are {len(chosen)} partitions, {PARTITIONS_PER_REQUEST_MAX} fit: name some topics")
    return wire.PartitionPlaces(tuple(map(_place, sorted(chosen, key=lambda record: (record.topic, record.partition)))))


def _place(record: PartitionRecord) -> wire.PartitionPlace:
    return wire.PartitionPlace(
        record.topic, record.partition, record.leader, record.leader_epoch, record.replicas, record.isr,
        record.adding, record.removing, record.is_recovering,
    )  # fmt: skip


# --- what is to be done -----------------------------------------------------------------------------


async def _reassign(services: Services, context: Context, body: wire.Reassign) -> wire.PartResults:
    cluster = _cluster(services)
    results = []
    for part in body.parts:
        try:
            services.gate.admit(context, Operation.ALTER, part.topic)
            await cluster.reassign(services.admin.route(part.topic).record, part.partition, part.replicas)
            results.append(wire.PartResult(0, None))
        except DduomqError as error:
            results.append(wire.PartResult(error.code, error.message))
    return wire.PartResults(tuple(results))


async def _elect(services: Services, context: Context, body: wire.ElectLeaders) -> wire.LeadersElected:
    cluster = _cluster(services)
    results: list[wire.ElectionResult] = []
    if not body.parts:
        services.gate.admit(context, Operation.ALTER, EVERYTHING)
        topics = [route.record for route in services.routes.table.values()]
        for elected in await cluster.elect_all(topics, unclean=body.unclean):
            record = elected.record
            results.append(_elected(record.topic, record.partition, record.leader, elected.error))
        return wire.LeadersElected(tuple(results))
    for part in body.parts:
        try:
            services.gate.admit(context, Operation.ALTER, part.topic)
            topic = services.admin.route(part.topic).record
            record = await cluster.elect(topic, part.partition, unclean=body.unclean)
            results.append(_elected(part.topic, part.partition, record.leader, None))
        except DduomqError as error:
            results.append(_elected(part.topic, part.partition, NO_LEADER, error))
    return wire.LeadersElected(tuple(results))


def _elected(topic: str, partition: int, leader: int, error: DduomqError | None) -> wire.ElectionResult:
    if error is None:
        return wire.ElectionResult(topic, partition, 0, None, leader)
    return wire.ElectionResult(topic, partition, error.code, error.message, leader)


async def _drain(services: Services, context: Context, body: wire.DrainNode) -> native.Done:
    services.gate.admit(context, Operation.ALTER, EVERYTHING)
    await _cluster(services).drain(body.node_id, is_draining=body.is_draining)
    return native.Done()


async def _remove(services: Services, context: Context, body: wire.RemoveNode) -> native.Done:
    services.gate.admit(context, Operation.ALTER, EVERYTHING)
    await _cluster(services).remove(body.node_id)
    return native.Done()


async def _plan(services: Services, context: Context, body: wire.PlanMoves) -> wire.MovesPlanned:
    services.gate.admit(context, Operation.DESCRIBE, EVERYTHING)
    moves = await _cluster(services).plan_moves(body.empty)
    return wire.MovesPlanned(
        tuple(
            wire.PlannedMove(move.record.topic, move.record.partition, move.record.replicas, move.replicas)
            for move in moves[:PARTITIONS_PER_REQUEST_MAX]
        )
    )


HANDLERS: Mapping[type, Callable[[Services, Context, Any], Awaitable[object]]] = {
    wire.DescribeCluster: _describe,
    wire.Reassign: _reassign,
    wire.DescribePartitions: _places,
    wire.ElectLeaders: _elect,
    wire.DrainNode: _drain,
    wire.PlanMoves: _plan,
    wire.RemoveNode: _remove,
}
