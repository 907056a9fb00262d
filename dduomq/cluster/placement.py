"""Where replicas go: those of new partitions, and the moves that level a cluster or empty a node.

Always true: the replicas of a partition are on different nodes, and in different zones as far as there are so many. The
same question has the same answer: ties go to the node whose turn it is.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs

from dduomq.cluster.image import NO_LEADER, NodeRecord, PartitionRecord, TopicRecord
from dduomq.errors import InvalidReplicaAssignment, InvalidReplicationFactor

DEFAULT_FACTOR = 3


@attrs.frozen
class Load:
    """How many partitions each node keeps, and of how many it is the preferred leader."""

    replicas: Mapping[int, int] = attrs.field(factory=dict)
    leaders: Mapping[int, int] = attrs.field(factory=dict)


@attrs.frozen
class Move:
    """A partition whose replicas are to be others, or in another order."""

    record: PartitionRecord
    replicas: tuple[int, ...]

    @property
    def added(self) -> tuple[int, ...]:
        """The nodes that have to copy it."""
        return tuple(node for node in self.replicas if node not in self.record.replicas)


def load_of(records: Iterable[PartitionRecord]) -> Load:
    replicas: Counter[int] = Counter()
    leaders: Counter[int] = Counter()
    for record in records:
        kept = target_of(record)
        replicas.update(kept)
        leaders.update(kept[:1])
    return Load(replicas, leaders)


def target_of(record: PartitionRecord) -> tuple[int, ...]:
    """The replicas that a partition has, or will have when its reassignment is done."""
    return tuple(node for node in record.replicas if node not in record.removing)


def factor_of(nodes: int, wanted: int = 0, default: int = 0) -> int:
    """How many replicas a topic gets. 0 and -1 mean the default: three, where there are three nodes.

    Raises `InvalidReplicationFactor`.
    """
    if wanted in {0, -1}:
        return min(default or DEFAULT_FACTOR, max(nodes, 1))
    if wanted < 1:
        raise InvalidReplicationFactor(f"{wanted} replicas were asked for; a partition has at least 1")
    if wanted > nodes:
        raise InvalidReplicationFactor(
            f"{wanted} replicas were asked for, and {nodes} {'nodes are' if nodes != 1 else 'node is'} alive: "
            f"start more nodes, or ask for at most {nodes}"
        )
    return wanted


def place(
    nodes: Sequence[NodeRecord],
    partitions: int,
    factor: int,
    load: Load | None = None,
    absent: Collection[int] = (),
) -> list[tuple[int, ...]]:
    """The replicas of each of so many new partitions; the first is the preferred leader.

    Leaders go round, each topic evenly, and so does who leads when the first one is gone; replicas go to zones that
    the partition is not in yet, and then to nodes that keep few. A node that is draining gets one only if
    there are not enough others, and then one that is known but `absent`. Raises `InvalidReplicationFactor`.
    """
    factor_of(len(nodes) + len(absent), factor)
    tiers = {node.node_id: int(node.is_draining) for node in nodes}
    zones = {node.node_id: node.zone for node in nodes}
    for node in absent:
        tiers.setdefault(node, 2)
        zones.setdefault(node, "")
    return _Round(tiers, zones, load or Load()).place(partitions, factor)


def new_records(
    topic: TopicRecord, assignment: Sequence[Sequence[int]], alive: Collection[int], first: int = 0
) -> list[PartitionRecord]:
    """The records of new partitions, numbered from `first`: whoever lives is in sync, as there is nothing yet."""
    made = []
    for at, replicas in enumerate(assignment, first):
        isr = tuple(node for node in replicas if node in alive) or tuple(replicas)
        leader = isr[0] if isr[0] in alive else NO_LEADER
        made.append(PartitionRecord(topic.name, topic.topic_id, at, tuple(replicas), leader, 0, isr))
    return made


class _Round:
    """The partitions of one topic, one after the other. `tiers`: whom to take first."""

    def __init__(self, tiers: Mapping[int, int], zones: Mapping[int, str], load: Load) -> None:
        self._ids = sorted(zones)
        self._tiers = tiers
        self._zones = zones
        self._load = load
        self._leads: Counter[int] = Counter()
        self._keeps: Counter[int] = Counter()
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._heirs: Counter[tuple[int, int]] = Counter()  # who leads when the first one is gone

    def place(self, partitions: int, factor: int) -> list[tuple[int, ...]]:
        return [self._one(factor) for _ in range(partitions)]

    def _one(self, factor: int) -> tuple[int, ...]:
        leader = min(self._ids, key=self._as_leader)
        chosen = [leader]
        while len(chosen) < factor:
            used = Counter(self._zones[node] for node in chosen)
            turn = self._ids.index(chosen[-1])
            ranks = {
                node: (
                    self._tiers[node],
                    used[self._zones[node]],
                    self._keeps[node],
                    self._total(node),
                    self._pairs[leader, node],
                    (at - turn) % len(self._ids),
                )
                for at, node in enumerate(self._ids)
                if node not in chosen
            }
            chosen.append(min(ranks, key=ranks.__getitem__))
        self._leads[leader] += 1
        self._keeps.update(chosen)
        self._pairs.update((leader, node) for node in chosen[1:])
        followers = sorted(chosen[1:], key=lambda node: self._heirs[leader, node])
        self._heirs.update((leader, node) for node in followers[:1])
        return (leader, *followers)

    def _as_leader(self, node: int) -> tuple[int, ...]:
        leads = self._leads[node]
        return (
            self._tiers[node], leads, self._load.leaders.get(node, 0) + leads, self._keeps[node], self._total(node),
            node,
        )  # fmt: skip

    def _total(self, node: int) -> int:
        return self._load.replicas.get(node, 0) + self._keeps[node]


def check_assignment(assignment: Sequence[Sequence[int]], known: Collection[int]) -> None:
    """Replicas that somebody has chosen by hand. Raises `InvalidReplicaAssignment`."""
    for at, replicas in enumerate(assignment):
        if not replicas:
            raise InvalidReplicaAssignment(f"partition {at} was given no replica; it needs at least one")
        if len(set(replicas)) != len(replicas):
            raise InvalidReplicaAssignment(f"partition {at} was given the same node twice: {list(replicas)}")
        strangers = [node for node in replicas if node not in known]
        if strangers:
            alive = ", ".join(map(str, sorted(known)))
            raise InvalidReplicaAssignment(f"partition {at}: node {strangers[0]} is not alive; these are: {alive}")
    if len({len(replicas) for replicas in assignment}) > 1:
        raise InvalidReplicaAssignment("all partitions of a topic have the same number of replicas")


# --- levelling --------------------------------------------------------------------------------------


def balance(records: Iterable[PartitionRecord], nodes: Sequence[NodeRecord], empty: Collection[int] = ()) -> list[Move]:
    """The moves after which nodes keep and lead about as much as one another, and those of `empty` nothing.

    No partition is copied that need not be: what is on a node that is not alive stays, unless that node is to be empty;
    partitions that are being moved already stay as they are. Raises `InvalidReplicationFactor`.
    """
    targets = [node for node in nodes if node.node_id not in empty and not node.is_draining]
    plan = _Plan(list(records), sorted(targets, key=lambda node: node.node_id))
    plan.clear(empty)
    plan.level()
    plan.lead()
    return plan.moves()


class _Plan:
    """Assignments that are being levelled."""

    def __init__(self, records: Sequence[PartitionRecord], targets: Sequence[NodeRecord]) -> None:
        self._records = {record.key: record for record in records}
        self._replicas = {record.key: list(target_of(record)) for record in records}
        self._free = [key for key, record in self._records.items() if not (record.adding or record.removing)]
        self._zones = {node.node_id: node.zone for node in targets}
        self._keeps = Counter({node.node_id: 0 for node in targets})
        self._keys: dict[int, list[str]] = {node.node_id: [] for node in targets}
        for key, replicas in self._replicas.items():
            for node in replicas:
                self._keeps[node] += 1
                self._keys.setdefault(node, []).append(key)

    def clear(self, empty: Collection[int]) -> None:
        """Replace the replicas on nodes that are to be empty."""
        for key in self._free:
            for node in [one for one in self._replicas[key] if one in empty]:
                self._replace(key, node, self._best(key, node))

    def _best(self, key: str, leaving: int) -> int:
        held = self._replicas[key]
        used = Counter(self._zones.get(node) for node in held if node != leaving)
        others = [node for node in self._zones if node not in held]
        if not others:
            record = self._records[key]
            raise InvalidReplicationFactor(
                f"{record.topic}-{record.partition} has {len(held)} replicas, and no other node is there for the one "
                f"on node {leaving}: add a node first, or give the topic fewer replicas"
            )
        return min(others, key=lambda node: (used[self._zones[node]], self._keeps[node], node))

    def level(self) -> None:
        """Move replicas from the fullest node to the emptiest, until they differ by one at most."""
        free = set(self._free)
        stuck: set[int] = set()
        while len(self._zones) - len(stuck) > 1:
            full = max((n for n in self._zones if n not in stuck), key=lambda n: (self._keeps[n], -n))
            if not self._relieve(full, free):
                stuck.add(full)

    def _relieve(self, full: int, free: Collection[str]) -> bool:
        """Move one replica away from a node to one that keeps at least two fewer."""
        for node in sorted(self._zones, key=lambda n: (self._keeps[n], n)):
            if self._keeps[full] - self._keeps[node] < 2:
                return False
            for key in self._keys[full]:
                if key in free and node not in self._replicas[key] and self._keeps_zones(key, full, node):
                    self._replace(key, full, node)
                    return True
        return False

    def _keeps_zones(self, key: str, old: int, new: int) -> bool:
        """Whether the partition is in as many zones afterwards."""
        zones = [self._zones.get(node, "") for node in self._replicas[key] if node != old]
        return len({*zones, self._zones[new]}) >= len({*zones, self._zones[old]})

    def _replace(self, key: str, old: int, new: int) -> None:
        held = self._replicas[key]
        held[held.index(old)] = new
        self._keeps[old] -= 1
        self._keeps[new] += 1
        self._keys[old].remove(key)
        self._keys[new].append(key)

    def lead(self) -> None:
        """Let another replica be the preferred one where a node would lead too much; that copies nothing."""
        leads = Counter(dict.fromkeys(self._zones, 0))
        leads.update(self._replicas[key][0] for key in self._replicas)
        for _ in range(len(self._zones)):
            moved = False
            for key in self._free:
                held = self._replicas[key]
                others = [node for node in held if node in self._zones]
                best = min(others, key=lambda node: (leads[node], node), default=held[0])
                if leads[held[0]] - leads[best] > 1:
                    leads[held[0]] -= 1
                    leads[best] += 1
                    at = held.index(best)
                    held[0], held[at] = held[at], held[0]
                    moved = True
            if not moved:
                return

    def moves(self) -> list[Move]:
        """What is to change, in the order of the records."""
        planned = ((self._records[key], tuple(self._replicas[key])) for key in self._free)
        return [Move(record, replicas) for record, replicas in planned if replicas != record.replicas]
