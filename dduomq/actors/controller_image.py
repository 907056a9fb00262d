"""What the controller knows of the cluster, and what it has not looked at yet.

Always true: a record is only replaced by a newer one; a partition of which a change is under way is looked at when that
is done; a node that registered anew is admitted when all records, read after that, are as they should be without it;
when nodes have come or gone, nothing is decided before all who count as alive have seen it, or are gone, too. A session
outlasts its node: else, of nodes that died together, one that is not back would be preferred to those who are. Who says
nothing is not waited for without end, and no more until it has said what is so.
"""

from collections.abc import Callable, Mapping, Sequence

import attrs

from dduomq.actors.controller_messages import Wish, Written
from dduomq.actors.registration import Nodes
from dduomq.cluster.control import ClusterState, TopicState, decide, is_orphan, mentions, missing, prefer
from dduomq.cluster.image import PartitionRecord, TopicRecord
from dduomq.cluster.placement import factor_of, load_of, new_records, place
from dduomq.limits import ORPHAN_GRACE_MS, PREFERRED_GRACE_MS, PREFERRED_PER_TICK, SESSIONS_OUTLAST

SWEEP_MS = 10_000  # what is not urgent at all is looked at so often


@attrs.frozen
class Held:
    record: PartitionRecord
    version: int


class ControllerImage:
    """Of one reign. `waiting`: the partitions that are to be looked at; `flying`: those with a change under way.

    `own`: this node and the epoch of its registration. `timeout_ms`: of its session, and of those of nodes that have
    not said another one.
    """

    def __init__(
        self,
        reign: int,
        admitted: Mapping[int, int],
        is_unclean: Callable[[TopicRecord], bool],
        *,
        own: tuple[int, int],
        timeout_ms: int,
    ) -> None:
        self.records: dict[str, Held] = {}
        self.waiting: dict[str, None] = {}
        self.flying: dict[str, Wish] = {}
        self._reign = reign
        self._is_unclean = is_unclean
        self._own = own
        self._timeout_ms = timeout_ms
        self._nodes = Nodes()
        self._admitted = dict(admitted)
        self._state = ClusterState({})
        self._read: dict[int, int] = {}  # the epochs of nodes after whose registration all was read
        self._reading: dict[int, int] = {}
        self._admitting = False
        self._has_topics = self._has_partitions = False
        self._is_agreed = False  # all who count as alive have seen which nodes there are now
        self._behind: dict[int, int | None] = {}  # who has not said so, and since when: None before the next tick
        self._mute: set[int] = set()  # those of them who were waited for in vain
        self._topics: dict[str, tuple[TopicRecord, TopicState, int]] = {}  # by id, with the record's version
        self._ids: dict[str, str] = {}
        self._orphans: dict[str, int] = {}  # since when, in ms
        self._incomplete: dict[str, int] = {}
        self._ready: dict[str, int] = {}  # since when the preferred replica could lead
        self._preferred: set[str] = set()  # to be led by their preferred replica
        self._doomed: set[str] = set()  # to be deleted
        self._swept_ms = -SWEEP_MS
        self._made: dict[str, PartitionRecord] = {}

    @property
    def is_whole(self) -> bool:
        """Whether everything has been seen once, and all agree on who is there."""
        return self._has_topics and self._has_partitions and self._is_agreed

    # --- what there is ------------------------------------------------------------------------------

    def set_nodes(self, nodes: Nodes) -> None:
        if nodes.epochs != self._nodes.epochs:
            self._is_agreed = False
        self._nodes = nodes
        self._look()

    def set_admitted(self, admitted: Mapping[int, int]) -> None:
        self._admitted, self._admitting = dict(admitted), False
        self._look()

    def _look(self) -> None:
        state = ClusterState.of(self._nodes.epochs, self._admitted, self._nodes.draining)
        if state != self._state:
            self._state = state
            self.waiting.update(dict.fromkeys(self.records))
        self._behind = {node: self._behind.get(node) for node in self._silent()}
        self._mute &= self._behind.keys()
        self._agree()

    def _silent(self) -> list[int]:
        """Who counts as alive and has not said that it sees the nodes of now. A controller must see itself."""
        (own, epoch), (epochs, seen) = self._own, (self._nodes.epochs, self._nodes.seen)
        silent = [node for node in self._state.alive if node not in seen or seen[node].epochs != epochs]
        return [node for node in silent if node != own] + [own] * (epochs.get(own) != epoch)

    def _agree(self) -> None:
        self._is_agreed = self._is_agreed or self._behind.keys() <= self._mute

    def give_up(self, now_ms: int) -> list[int]:
        """Wait no more for who has said nothing for longer than its session would outlast it; who that is."""
        before = set(self._mute)
        for node, since in self._behind.items():
            if since is None:
                self._behind[node] = now_ms
            elif now_ms - since >= SESSIONS_OUTLAST * self._timeout_of(node):
                self._mute.add(node)
        self._agree()
        return sorted(self._mute - before)

    def _timeout_of(self, node: int) -> int:
        said = self._nodes.seen.get(node)
        return self._timeout_ms if said is None else said.timeout_ms

    def set_topics(self, topics: Sequence[tuple[TopicRecord, int]]) -> None:
        self._topics, self._ids, self._has_topics = {}, {}, True
        for record, version in topics:
            self.set_topic(record.name, record, version)
        self.waiting.update(dict.fromkeys(self.records))

    def set_topic(self, name: str, record: TopicRecord | None, version: int) -> None:
        """A topic as it is now."""
        self._topics.pop(self._ids.pop(name, ""), None)
        if record is None:
            return
        state = TopicState(name, record.topic_id, record.partitions, record.replication, self._is_unclean(record))
        self._topics[record.topic_id], self._ids[name] = (record, state, version), record.topic_id
        if state.is_unclean_allowed:
            ours = (key for key, held in self.records.items() if held.record.topic_id == record.topic_id)
            self.waiting.update(dict.fromkeys(ours))

    def set_partitions(self, records: Sequence[Written]) -> None:
        """All there are: whatever else was known is gone."""
        here = {written.key for written in records}
        self._has_partitions = True
        for key in [key for key in self.records if key not in here]:
            self._drop(key)
        for written in records:
            self.hold(written)

    def hold(self, written: Written) -> None:
        """One record, unless a newer one is known."""
        held = self.records.get(written.key)
        if written.record is None:
            if held is not None and (not written.version or written.version >= held.version):
                self._drop(written.key)
        elif held is None or held.version < written.version:
            self.records[written.key] = Held(written.record, written.version)
            self.waiting[written.key] = None

    def _drop(self, key: str) -> None:
        self.records.pop(key, None)
        self.waiting.pop(key, None)
        self._orphans.pop(key, None)
        self._ready.pop(key, None)
        self._preferred.discard(key)
        self._doomed.discard(key)

    def read(self, epochs: Mapping[int, int], records: Sequence[Written]) -> None:
        """All records, as they were after those nodes had registered."""
        self._reading = {}
        self._read.update(epochs)
        for written in records:
            self.hold(written)

    def landed(self, outcome: Written) -> None:
        """A change is done, or was refused: so it is now."""
        self.flying.pop(outcome.key, None)
        self.hold(outcome)
        if outcome.key in self.records:
            self.waiting[outcome.key] = None

    # --- what is to be done -------------------------------------------------------------------------

    def next_wish(self) -> Wish | None:
        """Look at one of the partitions that wait; what is to be written of it, if anything."""
        key = next(iter(self.waiting))
        del self.waiting[key]
        if key in self.flying:
            return None
        wish = self._made_wish(key) if key in self._made else self._wish(key)
        if wish is not None:
            self.flying[key] = wish
        return wish

    def _wish(self, key: str) -> Wish | None:
        held = self.records.get(key)
        if held is None:
            return None
        topic = self._topics.get(held.record.topic_id)
        if key in self._doomed:
            return self._removal(key, held)
        allowed = topic is not None and topic[1].is_unclean_allowed
        wanted = decide(held.record, self._state, is_unclean_allowed=allowed)
        if wanted is held.record and key in self._preferred:
            wanted = prefer(held.record, self._state)
        self._preferred.discard(key)
        if wanted is held.record:
            return None
        return Wish(key, attrs.evolve(wanted, controller_epoch=self._reign), held.version)

    def next_read(self) -> Mapping[int, int] | None:
        """The epochs of nodes that registered anew: everything is to be read once more, for their sake."""
        if self._reading:
            return None
        fresh = self._nodes.epochs.items() - self._admitted.items() - self._read.items()
        self._reading = dict(sorted(fresh))
        return self._reading or None

    def next_admission(self) -> Mapping[int, int] | None:
        """The epochs that count as dealt with, if there are more of them now."""
        if self._admitting or self.waiting:
            return None
        busy = [self.records[key].record for key in self.flying if key in self.records]
        admitted = {
            node: epoch
            for node, epoch in self._nodes.epochs.items()
            if self._admitted.get(node) == epoch
            or (self._read.get(node) == epoch and not any(mentions(record, node) for record in busy))
        }
        if not admitted.items() - self._admitted.items():
            return None
        self._admitting = True
        return admitted

    # --- now and then -------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Preferred leaders, leftovers, what is missing: nothing of it is urgent."""
        if not self.is_whole:
            return
        self._restore_preferred(now_ms)
        if now_ms - self._swept_ms >= SWEEP_MS:
            self._swept_ms = now_ms
            self._sweep(now_ms)
            self._complete(now_ms)

    def _restore_preferred(self, now_ms: int) -> None:
        ready = {
            key: self._ready.get(key, now_ms)
            for key, held in self.records.items()
            if held.record.leader != held.record.replicas[0] and prefer(held.record, self._state) is not held.record
        }
        self._ready = ready
        due = [key for key, since in ready.items() if now_ms - since >= PREFERRED_GRACE_MS and key not in self.flying]
        for key in due[:PREFERRED_PER_TICK]:
            self._preferred.add(key)
            self.waiting[key] = None

    def _topic_of(self, record: PartitionRecord) -> TopicState | None:
        found = self._topics.get(record.topic_id)
        return None if found is None else found[1]

    def _sweep(self, now_ms: int) -> None:
        self._orphans = {
            key: self._orphans.get(key, now_ms)
            for key, held in self.records.items()
            if is_orphan(held.record, self._topic_of(held.record))
        }
        for key, since in self._orphans.items():
            if now_ms - since >= ORPHAN_GRACE_MS and key not in self.flying:
                self._doomed.add(key)
                self.waiting[key] = None

    def _removal(self, key: str, held: Held) -> Wish | None:
        """Delete a record if its topic is not there: that is checked once more in the transaction."""
        self._doomed.discard(key)
        if not is_orphan(held.record, self._topic_of(held.record)):
            return None
        name = held.record.topic
        topic_id = self._ids.get(name)
        version = 0 if topic_id is None else self._topics[topic_id][2]
        return Wish(key, None, held.version, (name, version))

    def _complete(self, now_ms: int) -> None:
        """Partitions of a topic that has grown, which nobody wrote a record for."""
        numbers: dict[str, set[int]] = {}
        for held in self.records.values():
            numbers.setdefault(held.record.topic_id, set()).add(held.record.partition)
        lacking = {
            topic_id: found
            for topic_id, held_numbers in numbers.items()
            if topic_id in self._topics and (found := missing(self._topics[topic_id][1], held_numbers))
        }
        self._incomplete = {topic_id: self._incomplete.get(topic_id, now_ms) for topic_id in lacking}
        for topic_id, since in self._incomplete.items():
            if now_ms - since >= ORPHAN_GRACE_MS and self._state.alive:
                self._make(self._topics[topic_id][0], lacking[topic_id])

    def _make(self, topic: TopicRecord, numbers: Sequence[int]) -> None:
        nodes = [self._nodes.records[node] for node in self._state.alive if node in self._nodes.records]
        factor = factor_of(len(nodes), min(topic.replication, len(nodes)))
        load = load_of(held.record for held in self.records.values())
        for at, replicas in zip(numbers, place(nodes, len(numbers), factor, load), strict=True):
            (record,) = new_records(topic, [replicas], self._state.alive, at)
            self._made[record.key] = attrs.evolve(record, controller_epoch=self._reign)
            self.waiting[record.key] = None

    def _made_wish(self, key: str) -> Wish | None:
        record = self._made.pop(key)
        topic = self._topics.get(record.topic_id)
        if key in self.records or topic is None:
            return None
        return Wish(key, record, 0, (record.topic, topic[2]))
