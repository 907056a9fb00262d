"""The node itself in Kafka's words: ApiVersions, FindCoordinator, DescribeCluster, DescribeLogDirs."""

import re
from collections.abc import Mapping

from dduomq.actors.partition_messages import PartitionState
from dduomq.errors import CoordinatorNotAvailable, DduomqError, InvalidRequest
from dduomq.listeners.admit import Operation
from dduomq.listeners.kafka.asking import Asking, Body
from dduomq.listeners.kafka.codes import INVALID_REQUEST, KAFKA_STORAGE_ERROR, UNSUPPORTED_VERSION, code_of
from dduomq.wire.kafka.registry import APIS

GROUP = 0
OFFLINE = "offline"
CLIENT_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")
BROKERS, CONTROLLERS = 1, 2  # the kinds of endpoint that DescribeCluster is asked for
MISMATCHED_ENDPOINT_TYPE, UNSUPPORTED_ENDPOINT_TYPE = 114, 115


def api_versions(asking: Asking, *, supported: bool) -> Body:
    """What is spoken here; told to a client that asks in a version from the future, too."""
    keys = [{"api_key": api.key, "min_version": api.first, "max_version": api.last} for api in APIS.values()]
    if not supported:
        return {"error_code": UNSUPPORTED_VERSION, "api_keys": keys}
    names = (asking.body["client_software_name"], asking.body["client_software_version"])
    if asking.version >= 3 and not all(map(CLIENT_NAME.fullmatch, names)):
        return {"error_code": INVALID_REQUEST, "api_keys": []}
    return {"error_code": 0, "api_keys": keys}


async def find_coordinator(asking: Asking) -> Body:
    """The node that coordinates a group."""
    body = asking.body
    if asking.version >= 4:
        found = [await _coordinator(asking, key, body["key_type"]) for key in body["coordinator_keys"]]
        return {"coordinators": found}
    return await _coordinator(asking, body["key"], body["key_type"])


async def _coordinator(asking: Asking, key: str, kind: int) -> Body:
    services = asking.services
    try:
        if kind != GROUP:
            raise InvalidRequest("only groups have a coordinator here")
        node = services.node(asking.context.listener, await services.groups.leader(key))
        if node is None:
            raise CoordinatorNotAvailable
    except DduomqError as error:
        return {
            "key": key, "node_id": -1, "host": "", "port": -1, "error_code": code_of(error),
            "error_message": error.message,
        }  # fmt: skip
    return {
        "key": key, "node_id": node.node_id, "host": node.host, "port": node.port, "error_code": 0,
        "error_message": None,
    }  # fmt: skip


async def describe_cluster(asking: Asking) -> Body:
    """The nodes."""
    services = asking.services
    kind = asking.body["endpoint_type"]
    if kind != BROKERS:
        return {
            "error_code": MISMATCHED_ENDPOINT_TYPE if kind == CONTROLLERS else UNSUPPORTED_ENDPOINT_TYPE,
            "error_message": "there are no controllers apart from the nodes",
            "cluster_id": services.cluster_id(), "brokers": [],
        }  # fmt: skip
    return {
        "error_code": 0,
        "cluster_id": services.cluster_id(),
        "controller_id": services.controller(),
        "brokers": [
            {"broker_id": node.node_id, "host": node.host, "port": node.port}
            for node in services.nodes(asking.context.listener)
        ],
    }


async def describe_log_dirs(asking: Asking) -> Body:
    """How large each replica is on this node's disk."""
    services, wanted = asking.services, asking.body["topics"]
    asked = dict.fromkeys(services.routes.table) if wanted is None else {
        topic["topic"]: set(topic["partitions"]) for topic in wanted
    }  # fmt: skip
    topics: list[Body] = []
    is_offline = False
    for name, partitions in asked.items():
        try:
            services.gate.admit(asking.context, Operation.DESCRIBE, name)
            states = await services.admin.describe_kept(name)
        except DduomqError:
            continue  # as Kafka does: what is not here has no place on the disk
        is_offline = is_offline or any(state.state == OFFLINE for state in states.values())
        sizes = _sizes(states, partitions)
        if sizes:
            topics.append({"name": name, "partitions": sizes})
    result = {
        "error_code": KAFKA_STORAGE_ERROR if is_offline else 0, "log_dir": services.data_directory, "topics": topics
    }  # fmt: skip
    return {"error_code": 0, "results": [result]}


def _sizes(states: Mapping[int, PartitionState], wanted: set[int] | None) -> list[Body]:
    return [
        {
            "partition_index": at,
            "partition_size": -1 if state.log is None else state.log.size_bytes,
            "offset_lag": 0,
            "is_future_key": False,
        }
        for at, state in states.items()
        if wanted is None or at in wanted
    ]
