"""What must be true of a cluster while it runs, seen from inside: its nodes' views of who leads, and their disks.

C1 a leader epoch of a partition has one leader, and one batch at an offset, on whatever disk and however long
C2 replicas hold the same, to the last byte, when all is well again
C3 a leader comes from the in-sync replicas, and every change of a record raises its epochs by one
C5 when all is well again every partition has a leader, and all its replicas are in sync
(C4, that a reader never sees the high watermark go back, is read off the history: `dduomq.testing.checker`.)
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise

import attrs

from dduomq.cluster.image import NO_LEADER, PartitionRecord
from dduomq.errors import CorruptMessage
from dduomq.log.segment import LOG
from dduomq.testing.cluster_host import ClusterHost
from dduomq.wire.batch import HEADER_BYTES, BatchHeader, crc_of, read_header

Shard = tuple[str, int]  # a topic's id and a partition
Log = dict[int, tuple[BatchHeader, bytes]]  # whole batches by their first offset


class ClusterViolation(AssertionError):
    """An invariant of clusters does not hold."""


class Leaderships:
    """All records of partitions that any node has ever gone by."""

    def __init__(self, trace: Callable[..., None]) -> None:
        self._trace = trace
        self._seen: dict[int, object] = {}
        self._leaders: dict[tuple[Shard, int], int] = {}
        self._records: dict[Shard, dict[int, PartitionRecord]] = {}
        self.changes = 0  # of leaders, seen

    def look(self, host: ClusterHost) -> None:
        """Raises `ClusterViolation` for C1."""
        if host.node is None:
            return
        table = host.node.services.routes.table
        if self._seen.get(host.node_id) is table:
            return
        self._seen[host.node_id] = table
        for _, route in sorted(table.items()):
            for record in route.records:
                if record.replicas:  # else it is made up, as this node has not heard of the partition yet
                    self._note(host, record)

    def _note(self, host: ClusterHost, record: PartitionRecord) -> None:
        shard = (record.topic_id, record.partition)
        known = self._records.setdefault(shard, {})
        before = known.get(record.partition_epoch)
        if before is not None:
            if before != record:
                raise ClusterViolation(f"C1: {host.name} goes by {record}, somebody else by {before}")
            return
        known[record.partition_epoch] = record
        if record.leader == NO_LEADER:
            return
        leader = self._leaders.setdefault((shard, record.leader_epoch), record.leader)
        if leader != record.leader:
            raise ClusterViolation(f"C1: {record} on {host.name}, but node {leader} has led in that epoch")
        if record.leader_epoch and record.leader_epoch not in {one.leader_epoch for one in [*known.values()][:-1]}:
            self.changes += 1
            self._trace("leads", record.topic, record.partition, record.leader_epoch, record.leader)

    def check(self) -> None:
        """C3, for every two records that follow each other. Raises `ClusterViolation`."""
        for known in self._records.values():
            for before, after in pairwise(known[epoch] for epoch in sorted(known)):
                if after.partition_epoch == before.partition_epoch + 1:
                    _check_change(before, after)


def _check_change(before: PartitionRecord, after: PartitionRecord) -> None:
    rise = after.leader_epoch - before.leader_epoch
    has_changed = after.leader != before.leader
    if rise < 0 or (has_changed and rise != 1):
        raise ClusterViolation(f"C3: {after} comes after {before}: the leader epoch must rise by one")
    if not has_changed or after.leader == NO_LEADER or after.is_recovering:
        return
    if after.leader not in before.isr:
        raise ClusterViolation(f"C3: {after} comes after {before}: the leader was not in sync")
    if after.leader not in after.isr:
        raise ClusterViolation(f"C3: {after}: the leader is not in sync with itself")


# --- what lies on the disks ---------------------------------------------------------------------------


def is_compacted(name: str) -> bool:
    """A topic or its partition's directory. Its replicas may hold different records of a key, with gaps between."""
    return name.startswith("__")


def batches_of(data: bytes, expected: int | None = None) -> Iterator[tuple[BatchHeader, bytes]]:
    """The batches of a segment up to what is torn; damaged ones are left out.

    `expected`: the first one's offset, in a log without gaps. There a batch that is out of its place is damaged, too:
    no CRC covers the offset.
    """
    has_gaps = expected is None
    position = 0
    while len(data) - position >= HEADER_BYTES:
        try:
            header = read_header(data, position)
        except CorruptMessage:
            return
        if position + header.size > len(data):
            return
        is_whole = crc_of(memoryview(data), position, header.size) == header.crc
        if is_whole and (expected is None or header.base_offset == expected):
            yield header, data[position : position + header.size]
            expected = None if has_gaps else header.next_offset
        else:
            expected = None  # wherever the next one begins
        position += header.size


class Disks:
    """What was ever seen in the logs of all machines. `is_passing`: topics that are deleted and made anew."""

    def __init__(self, is_passing: Callable[[str], bool]) -> None:
        self._is_passing = is_passing
        self._written: dict[tuple[str, int, int], int] = {}
        self._read: dict[tuple[int, str], tuple[bytes, Log]] = {}
        self.batches = 0

    def look(self, host: ClusterHost) -> None:
        """Raises `ClusterViolation` for C1."""
        for name, log in self.logs(host).items():
            for offset, (header, _) in log.items():
                before = self._written.setdefault((name, header.leader_epoch, offset), header.crc)
                if before != header.crc:
                    raise ClusterViolation(
                        f"C1: {host.name} has another batch than was seen in {name} at offset {offset}, "
                        f"leader epoch {header.leader_epoch}"
                    )
        self.batches = len(self._written)

    def logs(self, host: ClusterHost) -> dict[str, Log]:
        """By the name of the partition's directory. A segment that is as it was is not read again."""
        found: dict[str, Log] = {}
        for path in sorted(host.platter.files.inodes):
            directory = path.split("/")[-2]
            if not path.endswith(LOG) or "/topics/" not in path or self._is_passing(directory):
                continue
            if "." in directory:
                continue  # a topic's grave
            data = bytes(host.platter.files.inodes[path].content)
            key = (host.node_id, path)
            known = self._read.get(key)
            if known is None or known[0] != data:
                expected = None if is_compacted(directory) else int(path.split("/")[-1].removesuffix(LOG))
                batches = batches_of(data, expected)
                known = self._read[key] = (data, {one.base_offset: (one, raw) for one, raw in batches})
            found.setdefault(directory, {}).update(known[1])
        return found


def differences(
    hosts: Sequence[ClusterHost],
    disks: Disks,
    damaged: Mapping[tuple[int, str], Collection[int]],
) -> str:
    """C2 and C5, at the end: what is not yet well; "" when all is.

    `damaged`: by node and log, the batches that the disk has changed; they may lie there until somebody reads them.
    """
    views = {host.node_id: host.node for host in hosts}
    logs = {host.node_id: disks.logs(host) for host in hosts}
    for node_id, node in views.items():
        if node is None:
            return f"C5: {node_id} is not up"
        for name, route in sorted(node.services.routes.table.items()):
            for record in route.records:
                wrong = _unwell(record)
                if wrong:
                    return f"C5: node {node_id} has {record}: {wrong}"
                directory = f"{name}-{record.partition}"
                replicas = {at: logs[at].get(directory, {}) for at in record.replicas}
                replicas = {at: log for at, log in replicas.items() if _is_whole(log, damaged.get((at, directory), ()))}
                wrong = "" if is_compacted(name) else _unlike(replicas)
                if wrong:
                    return f"C2: {directory}: {wrong}"
    return ""


def _unwell(record: PartitionRecord) -> str:
    if record.leader == NO_LEADER:
        return "nobody leads"
    if set(record.isr) != set(record.replicas):
        return "not all replicas are in sync"
    return "a reassignment has no end" if record.adding or record.removing else ""


def _is_whole(log: Log, damaged: Collection[int]) -> bool:
    """Whether all damage was mended, or let go."""
    return all(offset in log or offset < min(log, default=0) for offset in damaged)


def _unlike(replicas: Mapping[int, Log]) -> str:
    """How the logs of one partition differ. They may begin anywhere: segments are let go one machine at a time."""
    ends = {at: max((one.next_offset for one, _ in log.values()), default=-1) for at, log in replicas.items()}
    if len(set(ends.values())) > 1:
        return f"the logs end at {ends}"
    first = max((min(log, default=0) for log in replicas.values()), default=0)
    (first_at, reference), *others = replicas.items()
    held = {offset: raw for offset, (_, raw) in reference.items() if offset >= first}
    for at, log in others:
        other = {offset: raw for offset, (_, raw) in log.items() if offset >= first}
        if held != other:
            offset = min(o for o in {*held, *other} if held.get(o) != other.get(o))
            return f"nodes {first_at} and {at} differ at offset {offset}"
    return ""


@attrs.frozen
class Look:
    """All that is looked at again and again. A node alone has no records of who leads: it makes them up."""

    leaderships: Leaderships | None
    disks: Disks

    def at(self, host: ClusterHost) -> None:
        if self.leaderships is not None:
            self.leaderships.look(host)
        self.disks.look(host)

    def check(self) -> None:
        """At the end. Raises `ClusterViolation`."""
        if self.leaderships is not None:
            self.leaderships.check()

    @property
    def changes(self) -> int:
        """Of leaders, as far as any was seen."""
        return 0 if self.leaderships is None else self.leaderships.changes
