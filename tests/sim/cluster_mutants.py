"""Known bugs of clusters, as changes to the product: the simulation must find each of them.

`seeds`: one that is known to find it comes first, as runs of clusters are long. Bugs that need more luck than that
(who joins the in-sync set too early, or counts in it before it is written; controllers and nodes of the past; a new
leader that tells whatever high watermark it has) have their stories in `tests/replica`, `tests/actors` and
`tests/listeners`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs

from dduomq.actors import isr, journal, partition_following
from dduomq.actors.controller_image import ControllerImage
from dduomq.actors.partition import PartitionActor
from dduomq.actors.partition_messages import LEADER_ONLY, Append
from dduomq.actors.partition_replica import ReplicaPart
from dduomq.actors.registration import Registration
from dduomq.cluster import control
from dduomq.cluster.image import NO_LEADER, encode_partition
from dduomq.cluster.ports import Put
from dduomq.replica.follower import Truncate
from dduomq.replica.leader import Leadership

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


def _always(*_arguments):
    return True


def _nobody(_self):
    return []


def _over_everything(change):
    yield Put(change.record.key, encode_partition(change.record))


def _from(seed, *changes):
    """`seed` is known to find it; if runs have changed since, another one may."""
    return Mutant(changes, (seed, *range(40)))


async def _wait_for_another_session(self):
    """Nobody tells when the one that there is counts again."""
    while not self.is_registered:
        await self._changed.wait()
    return self.session


# name: what is replaced by what
CLUSTER_MUTANTS = {
    "an ack does not wait for the replicas": _from(6, (Leadership, "high_watermark", _own_end)),
    "replicas ask on before they have synced": _from(22, (PartitionActor, "_safe_end", _all_that_is_written)),
    "a follower cuts its log at its high watermark": _from(4, (ReplicaPart, "_follow", _follow_from_its_mark)),
    "a follower goes on wherever histories part": _from(5, (partition_following, "decide", _go_on_wherever_they_part)),
    "whoever lives may lead": _from(6, (control, "_lead", _lead_whoever_lives)),
    "a new leader leads in the old epoch": _from(1, (control, "_stamped", _in_the_same_epoch)),
    "a new leader believes to know what counts": _from(
        8, (ReplicaPart, "_is_settled", _always), (Leadership, "is_known", _always)
    ),
    "a session that counts again is not noticed": _from(90, (Registration, "registered", _wait_for_another_session)),
    "who is still counted is preferred to who is back": _from(0, (ControllerImage, "_silent", _nobody)),
    "coordinators answer before their replicas know": _from(6, (journal, "Append", partial(Append, acks=LEADER_ONLY))),
    "in-sync sets are written over whatever there is": _from(51, (isr, "_operations", _over_everything)),
}
