"""What a partition is, and what it works with: as the router hands it to a `PartitionActor`."""

import attrs
import structlog

from dduomq.actors.actor import Mailbox
from dduomq.actors.pace import Pace
from dduomq.actors.replica_messages import Changes, Follows
from dduomq.cluster.image import PartitionRecord
from dduomq.limits import REPLICA_LAG_MAX_MS
from dduomq.log.files import Files
from dduomq.log.settings import TopicSettings
from dduomq.ports import Clock


@attrs.frozen
class PartitionSpec:
    """What a partition is, as the router knows it from the metadata. `record` None: this node is alone and leads.

    `is_found`: the partition was there when this node started, so its log must be, too.
    """

    topic: str
    partition: int
    topic_id: str
    directory: str
    settings: TopicSettings
    leader_epoch: int
    clean: bool
    record: PartitionRecord | None = None
    record_version: int = 0
    is_found: bool = False


@attrs.frozen
class PartitionWorld:
    """What all partitions of a node share. The last four are for partitions with a record."""

    clock: Clock
    files: Files
    memory: Files
    disk: Mailbox
    janitor: Mailbox
    log: structlog.stdlib.BoundLogger
    pace: Pace = attrs.field(factory=Pace)
    node_id: int = 0
    follows: Follows | None = None
    changes: Changes | None = None
    replica_lag_max_ms: int = REPLICA_LAG_MAX_MS
