"""The native protocol's words about the cluster: frozen values, coded by `dduomq.wire.native`.

Always true: any node answers, and any node carries out what is asked for.
"""

import attrs


@attrs.frozen
class DescribeCluster:
    pass


@attrs.frozen
class NodeStatus:
    """`epoch`: of its registration, 0 while it is not alive. `leaders`, `replicas`: of how many partitions."""

    node_id: int
    host: str
    port: int
    zone: str
    epoch: int
    is_alive: bool
    is_draining: bool
    leaders: int
    replicas: int


@attrs.frozen
class PartitionName:
    topic: str
    partition: int


@attrs.frozen
class ClusterDescription:
    """`controller`: -1 while there is none. `under_replicated`: some replica is not in sync; `offline`: no leader."""

    cluster_id: str
    controller: int
    controller_epoch: int
    nodes: tuple[NodeStatus, ...]
    partitions: int
    under_replicated: tuple[PartitionName, ...]
    offline: tuple[PartitionName, ...]
    moving: int


@attrs.frozen
class Reassignment:
    """A partition that is to be on `replicas`, the first of which is to lead. None: give its move up."""

    topic: str
    partition: int
    replicas: tuple[int, ...] | None


@attrs.frozen
class Reassign:
    parts: tuple[Reassignment, ...]


@attrs.frozen
class PartResult:
    code: int
    message: str | None


@attrs.frozen
class PartResults:
    """In the order of the parts that were asked for."""

    parts: tuple[PartResult, ...]


@attrs.frozen
class DescribePartitions:
    """Of `topics`, None: of all. `moving`: only those that are being moved."""

    topics: tuple[str, ...] | None = None
    moving: bool = False


@attrs.frozen
class PartitionPlace:
    """Where a partition is. `adding`, `removing`: of a move; it is done when all of `adding` are in sync."""

    topic: str
    partition: int
    leader: int
    leader_epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    adding: tuple[int, ...] = ()
    removing: tuple[int, ...] = ()
    is_recovering: bool = False


@attrs.frozen
class PartitionPlaces:
    places: tuple[PartitionPlace, ...]


@attrs.frozen
class ElectLeaders:
    """Let the preferred replica lead, or `unclean` any that lives where none in sync does.

    No `parts`: wherever that is needed.
    """

    parts: tuple[PartitionName, ...]
    unclean: bool = False


@attrs.frozen
class ElectionResult:
    topic: str
    partition: int
    code: int
    message: str | None
    leader: int


@attrs.frozen
class LeadersElected:
    parts: tuple[ElectionResult, ...]


@attrs.frozen
class DrainNode:
    """`is_draining`: the node is to lead nothing, until that is taken back."""

    node_id: int
    is_draining: bool


@attrs.frozen
class RemoveNode:
    """The node is gone, or its directory is: it has no vote any more, and may join again as a new one."""

    node_id: int


@attrs.frozen
class PlanMoves:
    """What would have to be moved so that all nodes keep about as much, and those of `empty` nothing."""

    empty: tuple[int, ...] = ()


@attrs.frozen
class PlannedMove:
    topic: str
    partition: int
    before: tuple[int, ...]
    after: tuple[int, ...]


@attrs.frozen
class MovesPlanned:
    moves: tuple[PlannedMove, ...]
