"""Known bugs of clusters, as changes to the product: the simulation must find each of them.

`seeds`: those that are known to find it come first, as runs of clusters are long.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs

from dduomq.actors import isr, journal, partition_following
from dduomq.actors.controller_clerk import Reign
from dduomq.actors.partition import PartitionActor
from dduomq.actors.partition_messages import LEADER_ONLY, Append
from dduomq.actors.partition_replica import ReplicaPart
from dduomq.cluster import control
from dduomq.cluster.image import NO_LEADER, encode_partition
from dduomq.cluster.ports import Check, Put
from dduomq.replica.follower import Truncate
from dduomq.replica.leader import UNKNOWN, Leadership

_follow, _stamped, _decide = ReplicaPart._follow, control._stamped, partition_following.decide


@attrs.frozen
class Mutant:
    """What is replaced by what, and where to look."""

    changes: Sequence[tuple[Any, str, Any]]
    seeds: Sequence[int] = tuple(range(60))


def _own_end(_self, own, before):
    return max(before, own)


def _all_that_is_written(_self, log):
    return log.log_end_offset


def _follow_from_its_mark(self, replica, log):
    """As Kafka did before KIP-101."""
    if log.high_watermark < log.log_end_offset:
        self._cut(log, Truncate(log.high_watermark))
    else:
        _follow(self, replica, log)


def _go_on_wherever_they_part(own, answer):
    return _decide(
        own, attrs.evolve(answer, diverging=None, log_end_offset=max(own.log_end_offset, answer.log_end_offset))
    )


def _lead_whoever_lives(record, state, *, is_unclean_allowed=False):
    del is_unclean_allowed
    alive = [node for node in record.replicas if node in state.alive]
    if record.leader in alive:
        return record
    return attrs.evolve(record, leader=alive[0] if alive else NO_LEADER)


def _in_the_same_epoch(before, after):
    return attrs.evolve(_stamped(before, after), leader_epoch=before.leader_epoch)


def _whoever_asks(self, *_needed):
    return tuple(node for node, held in self.followers.items() if node not in self.isr and held.position != UNKNOWN)


def _as_soon_as_it_is_wished(self):
    return self.isr if self._proposed is None else self._proposed


def _always(*_arguments):
    return True


def _nothing(*_arguments):
    """What should be done here is not done."""


def _without_the_nodes(change):
    yield Check(change.record.key, change.version)
    yield Put(change.record.key, encode_partition(change.record))


def _over_everything(change):
    yield Put(change.record.key, encode_partition(change.record))


# name: what is replaced by what
CLUSTER_MUTANTS = {
    "an ack does not wait for the replicas": Mutant([(Leadership, "high_watermark", _own_end)]),
    "replicas ask on before they have synced": Mutant([(PartitionActor, "_safe_end", _all_that_is_written)]),
    "a follower cuts its log at its high watermark": Mutant([(ReplicaPart, "_follow", _follow_from_its_mark)]),
    "a follower goes on wherever histories part": Mutant([(partition_following, "decide", _go_on_wherever_they_part)]),
    "whoever lives may lead": Mutant([(control, "_lead", _lead_whoever_lives)]),
    "a new leader leads in the old epoch": Mutant([(control, "_stamped", _in_the_same_epoch)]),
    "whoever asks is in sync": Mutant([(Leadership, "joining", _whoever_asks)]),
    "an in-sync set counts before it is written": Mutant(
        [(Leadership, "maximal_isr", property(_as_soon_as_it_is_wished))]
    ),
    "a new leader believes to know what counts": Mutant([(Leadership, "is_known", _always)]),
    "leader epochs are not looked at": Mutant([(PartitionActor, "_check_epoch", _nothing)]),
    "coordinators answer before their replicas know": Mutant([(journal, "Append", partial(Append, acks=LEADER_ONLY))]),
    "in-sync sets are written over whatever there is": Mutant([(isr, "_operations", _over_everything)]),
    "nodes that were away come back in sync": Mutant([(isr, "_operations", _without_the_nodes)]),
    "controllers write without their epoch": Mutant([(Reign, "check", property(lambda _self: Check("/nothing", 0)))]),
}
