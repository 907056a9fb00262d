"""The cluster from a client: its nodes, where partitions are, moving them, electing leaders."""

from collections.abc import Iterable, Mapping, Sequence

from dduomq.client.patience import Patient
from dduomq.errors import from_code
from dduomq.wire import native
from dduomq.wire.native_cluster import (
    ClusterDescription,
    DescribeCluster,
    DescribePartitions,
    DrainNode,
    ElectionResult,
    ElectLeaders,
    LeadersElected,
    MovesPlanned,
    PartitionName,
    PartitionPlace,
    PartitionPlaces,
    PartResults,
    PlanMoves,
    PlannedMove,
    Reassign,
    Reassignment,
    RemoveNode,
)

TIMEOUT_MS = 60_000


class ClusterAdmin(Patient):
    """Every method raises the broker's error; `NoCluster` where a node runs alone."""

    async def cluster_status(self) -> ClusterDescription:
        """The nodes, who is the controller, which partitions lack replicas or a leader."""
        return await self._patiently(DescribeCluster(), ClusterDescription)

    async def partition_places(
        self, topics: Iterable[str] | None = None, *, moving: bool = False
    ) -> list[PartitionPlace]:
        """Replicas, in-sync set and leader of the partitions of some topics, or of all; or only of those that move."""
        body = DescribePartitions(None if topics is None else tuple(topics), moving)
        return list((await self._patiently(body, PartitionPlaces)).places)

    async def reassign(self, moves: Mapping[tuple[str, int], Sequence[int] | None]) -> None:
        """Begin to move partitions: (topic, partition) to its replicas, preferred leader first; None: give a move up.

        Raises the first error, after everything was tried.
        """
        parts = [(name, at, replicas) for (name, at), replicas in moves.items()]
        body = Reassign(
            tuple(Reassignment(name, at, None if replicas is None else tuple(replicas)) for name, at, replicas in parts)
        )
        answer = await self._patiently(body, PartResults, TIMEOUT_MS)
        for (name, at, _), result in zip(parts, answer.parts, strict=True):
            if result.code:
                raise from_code(result.code, _named(name, at, result.message))

    async def elect_leaders(
        self, partitions: Iterable[tuple[str, int]] = (), *, unclean: bool = False
    ) -> list[ElectionResult]:
        """Let preferred replicas lead; of no partition in particular: wherever another one does.

        `unclean`: where no replica in sync is alive let any lead that is. Records that it lacks are lost.
        """
        body = ElectLeaders(tuple(PartitionName(*one) for one in partitions), unclean)
        return list((await self._patiently(body, LeadersElected, TIMEOUT_MS)).parts)

    async def drain_node(self, node_id: int) -> None:
        """Let a node lead nothing, until `undrain_node`. Raises `NodeNotFound`."""
        await self._patiently(DrainNode(node_id, is_draining=True), native.Done)

    async def undrain_node(self, node_id: int) -> None:
        """Let a node lead again. Raises `NodeNotFound`."""
        await self._patiently(DrainNode(node_id, is_draining=False), native.Done)

    async def remove_node(self, node_id: int) -> None:
        """A node that is gone for good, or has lost its directory, is no member any more; it may join as a new one.

        What it kept stays assigned to that number: move it before, or let the new node catch up. Raises `NodeAlive`,
        `NodeNotFound`.
        """
        await self._patiently(RemoveNode(node_id), native.Done, TIMEOUT_MS)

    async def plan_moves(self, empty: Iterable[int] = ()) -> list[PlannedMove]:
        """What would have to move so that all nodes keep about as much, and those of `empty` nothing."""
        return list((await self._patiently(PlanMoves(tuple(empty)), MovesPlanned)).moves)


def _named(topic: str, partition: int, message: str | None) -> str:
    """The error, and of which partition it speaks."""
    name = f"{topic}-{partition}"
    return message if message and name in message else f"{name}: {message or 'refused'}"
