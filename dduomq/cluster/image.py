"""What the cluster knows, as frozen values: topics, their partitions, the nodes, the next producer id.

Always true: a value written by one release is read by the next: each starts with its version, unknown
trailing fields are ignored.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import cbor2

from dduomq.errors import UnsupportedVersion

TOPICS = "/topics/"
CLUSTER = "/cluster"
PRODUCER_IDS = "/producer-ids"
EPOCH = "/epoch"
NODES = "/nodes/"
PARTITIONS = "/partitions/"
CONTROLLER = "/controller"  # ephemeral: the number of the node that is it
CONTROLLER_EPOCH = "/controller-epoch"
CLUSTER_VERSION = "/cluster-version"
ADMITTED = "/admitted"  # the epochs of the nodes whose registration the controller has dealt with
SEEN = "/seen/"  # <id>, ephemeral: which nodes are registered, as that node has lived to see it
DRAINING = "/draining/"  # <id>: an operator wants it to lead nothing; <id>.stop, ephemeral: it is about to stop
NO_LEADER = -1
_VERSION = 1


@attrs.frozen
class TopicRecord:
    """A topic as the metadata store holds it; `config` has only what differs from the defaults.

    `kind`: "" of a user's own, `ids.RETRY` or `ids.DEAD` of one that the broker keeps for a `group`.
    """

    name: str
    topic_id: str
    partitions: int
    replication: int
    config: Mapping[str, str]
    created_ms: int
    kind: str = ""
    group: str = ""

    @property
    def key(self) -> str:
        return TOPICS + self.name


def encode_topic(topic: TopicRecord) -> bytes:
    return cbor2.dumps(
        [
            _VERSION,
            topic.name,
            topic.topic_id,
            topic.partitions,
            topic.replication,
            dict(topic.config),
            topic.created_ms,
            topic.kind,
            topic.group,
        ]
    )


def decode_topic(data: bytes) -> TopicRecord:
    version, *fields = cbor2.loads(data)
    if version > _VERSION:
        raise UnsupportedVersion(f"a topic record has version {version}, written by a newer dduomq")
    return TopicRecord(*fields[:8])


@attrs.frozen
class NodeAddress:
    """A listener as others reach it."""

    listener: str
    host: str
    port: int


@attrs.frozen
class NodeRecord:
    """A node that is alive: its key is ephemeral. The version of the key is the node's epoch (Kafka's broker epoch).

    `addresses`: the first is the one that the other nodes use. `lowest` and `highest`: the cluster versions that it
    speaks. `is_draining`: it is to lead nothing; that is not written here, since this would be a new registration, but
    under `DRAINING`, and filled in by whoever reads both.
    """

    node_id: int
    directory_id: str
    addresses: tuple[NodeAddress, ...]
    zone: str = ""
    lowest: int = 1
    highest: int = 1
    is_draining: bool = False

    @property
    def key(self) -> str:
        return f"{NODES}{self.node_id}"


def encode_node(node: NodeRecord) -> bytes:
    addresses = [[a.listener, a.host, a.port] for a in node.addresses]
    return cbor2.dumps(
        [_VERSION, node.node_id, node.directory_id, addresses, node.zone, node.lowest, node.highest, node.is_draining]
    )


def decode_node(data: bytes) -> NodeRecord:
    version, *fields = cbor2.loads(data)
    if version > _VERSION:
        raise UnsupportedVersion(f"a node record has version {version}, written by a newer dduomq")
    node_id, directory_id, addresses, *rest = fields[:7]
    return NodeRecord(node_id, directory_id, tuple(NodeAddress(*one[:3]) for one in addresses), *rest)


@attrs.frozen
class PartitionRecord:
    """Who keeps a partition, and who leads it (KIP-497, KIP-595).

    `replicas`: the first is the preferred leader. `isr`: the in-sync set, a part of `replicas`. `leader` may be
    `NO_LEADER`. A change of leader raises `leader_epoch`, every change `partition_epoch`. `adding`: replicas of a
    reassignment that are not in sync yet; `removing`: those that go when all of `adding` are. `is_recovering`: its
    leader was elected from outside the in-sync set.
    """

    topic: str
    topic_id: str
    partition: int
    replicas: tuple[int, ...]
    leader: int
    leader_epoch: int
    isr: tuple[int, ...]
    partition_epoch: int = 0
    controller_epoch: int = 0
    adding: tuple[int, ...] = ()
    removing: tuple[int, ...] = ()
    is_recovering: bool = False

    @property
    def key(self) -> str:
        return partition_key(self.topic_id, self.partition)


def partition_key(topic_id: str, partition: int) -> str:
    return f"{PARTITIONS}{topic_id}/{partition}"


def encode_partition(record: PartitionRecord) -> bytes:
    return cbor2.dumps([_VERSION, *attrs.astuple(record, recurse=False)])


def decode_partition(data: bytes) -> PartitionRecord:
    version, *fields = cbor2.loads(data)
    if version > _VERSION:
        raise UnsupportedVersion(f"a partition record has version {version}, written by a newer dduomq")
    plain: list[Any] = [tuple(field) if isinstance(field, list) else field for field in fields[:12]]
    return PartitionRecord(*plain)


def decode_epochs(data: bytes) -> dict[int, int]:
    """The value of `ADMITTED`."""
    pairs: Any = decode_value(data)
    return dict(pairs)


def encode_epochs(epochs: Mapping[int, int]) -> bytes:
    return encode_value([[node, epochs[node]] for node in sorted(epochs)])


@attrs.frozen
class SeenRecord:
    """What a node says below `SEEN`: the epochs of all registrations it knows of, and how long its session lasts."""

    epochs: Mapping[int, int]
    timeout_ms: int


def encode_seen(seen: SeenRecord) -> bytes:
    return encode_value([seen.timeout_ms, [[node, seen.epochs[node]] for node in sorted(seen.epochs)]])


def decode_seen(data: bytes) -> SeenRecord:
    plain: Any = decode_value(data)
    return SeenRecord(dict(plain[1]), plain[0])


def encode_value(value: object) -> bytes:
    """A plain value: [version, value]."""
    return cbor2.dumps([_VERSION, value])


def decode_value(data: bytes) -> object:
    version, value = cbor2.loads(data)[:2]
    if version > _VERSION:
        raise UnsupportedVersion(f"a metadata value has version {version}, written by a newer dduomq")
    return value
