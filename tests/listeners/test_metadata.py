"""What Kafka's clients are told of partitions."""

import pytest

from dduomq.cluster.image import NO_LEADER, PartitionRecord
from dduomq.errors import LeaderNotAvailable
from dduomq.listeners.kafka.topics import _partition


@pytest.mark.parametrize(
    ("leader", "alive", "told"),
    [(1, {1, 2, 3}, (1, 0, [])), (1, {2, 3}, (NO_LEADER, 5, [1])), (NO_LEADER, {2}, (NO_LEADER, 5, [1, 3]))],
)
def test_a_leader_that_is_not_there_is_none(leader, alive, told):
    """Nobody is sent to a node that is not in the list of nodes; the replicas it keeps are said to be offline."""
    assert LeaderNotAvailable.code == 5
    record = PartitionRecord("t", "f" * 32, 0, (1, 2, 3), leader, 7, (1, 2))
    found = _partition(record, alive)
    assert (found["leader_id"], found["error_code"], found["offline_replicas"]) == told
    assert (found["leader_epoch"], found["replica_nodes"], found["isr_nodes"]) == (7, [1, 2, 3], [1, 2])
