"""The cluster's checker sees what it is there for."""

from types import SimpleNamespace

import attrs
import pytest

from dduomq.cluster.image import NO_LEADER, PartitionRecord
from dduomq.testing.cluster_checker import ClusterViolation, Disks, Leaderships, differences
from dduomq.testing.disk import Inode
from dduomq.wire.batch import HEADER_BYTES
from dduomq.wire.records import encode_one

FIRST = PartitionRecord("t", "an id", 0, (1, 2, 3), 1, 0, (1, 2))
LOG = "data/topics/t-0/{:020d}.log"


def batch(offset, value=b"x", epoch=0):
    """One record as it lies in a log."""
    data = bytearray(encode_one(value, timestamp_ms=1))
    data[0:8] = offset.to_bytes(8, "big")
    data[12:16] = epoch.to_bytes(4, "big")
    return bytes(data)


def host(node_id, *batches, record=None, begins=0):
    """What the checker looks at of a machine. `begins`: the offset in the segment's name."""
    inode = Inode()
    inode.content += b"".join(batches)
    table = {} if record is None else {"t": SimpleNamespace(records=(record,))}
    return SimpleNamespace(
        node_id=node_id,
        name=f"node-{node_id}",
        platter=SimpleNamespace(files=SimpleNamespace(inodes={LOG.format(begins): inode})),
        node=SimpleNamespace(services=SimpleNamespace(routes=SimpleNamespace(table=table))),
    )


def seen(*records):
    looked = Leaderships(lambda *_event: None)
    for at, record in enumerate(records):
        looked.look(host(at, record=record))
    return looked


def after(record=FIRST, **changes):
    return attrs.evolve(record, partition_epoch=record.partition_epoch + 1, **changes)


@pytest.mark.parametrize(
    "change",
    [
        after(leader=2, leader_epoch=1, isr=(2,)),
        after(leader=NO_LEADER, leader_epoch=1),
        after(isr=(1, 2, 3)),
        after(leader=3, leader_epoch=1, isr=(3,), is_recovering=True),
    ],
)
def test_changes_as_they_should_be(change):
    seen(FIRST, change).check()


@pytest.mark.parametrize(
    "change",
    [
        after(leader=3, leader_epoch=1, isr=(3,)),
        after(leader=2, leader_epoch=1, isr=(1,)),
        after(leader=2, isr=(2,), leader_epoch=2),
        after(attrs.evolve(FIRST, leader_epoch=0), leader_epoch=-1),
    ],
    ids=["from outside", "outside itself", "two epochs", "back"],
)
def test_an_election_that_must_not_be(change):
    with pytest.raises(ClusterViolation, match="C3"):
        seen(FIRST, change).check()


def test_two_leaders_of_one_epoch():
    with pytest.raises(ClusterViolation, match="C1"):
        seen(FIRST, after(leader=2, isr=(2,)))


def test_two_records_of_one_version():
    with pytest.raises(ClusterViolation, match="C1"):
        seen(FIRST, attrs.evolve(FIRST, isr=(1,)))


def test_two_batches_of_one_epoch_at_one_offset():
    """Whenever they were seen: the first may have been cut off since. What another epoch wrote there is fine."""
    disks = Disks(lambda _directory: False)
    disks.look(host(1, batch(0), batch(1, b"a")))
    disks.look(host(2, batch(0), batch(1, b"b", epoch=1)))
    with pytest.raises(ClusterViolation, match="offset 1"):
        disks.look(host(3, batch(0), batch(1, b"c")))


@pytest.mark.parametrize("changed_to", [0, 3, 65])
def test_a_batch_whose_offset_is_damaged_was_not_written_there(changed_to):
    """No CRC covers it. Such a batch is neither the first one of its new place, nor another than was there."""
    disks = Disks(lambda _directory: False)
    disks.look(host(1, batch(0), batch(changed_to, b"b"), batch(2)))
    for offset in (0, 1, 2, 3, 65):
        disks.look(host(2, batch(offset), begins=offset))
    assert disks.batches == 5


def unlike(*hosts, damaged=()):
    record = attrs.evolve(FIRST, replicas=(1, 2), isr=(1, 2))
    for one in hosts:
        one.node.services.routes.table = {"t": SimpleNamespace(records=(record,))}
    spoilt = {(1, "t-0"): set(damaged)} if damaged else {}
    return differences(hosts, Disks(lambda _directory: False), spoilt)


def test_replicas_that_are_equal():
    assert unlike(host(1, batch(0), batch(1)), host(2, batch(0), batch(1))) == ""


def test_a_replica_that_begins_later_is_equal_from_there():
    assert unlike(host(1, batch(0), batch(1)), host(2, batch(1), begins=1)) == ""


@pytest.mark.parametrize(
    ("held", "said"),
    [((batch(0), batch(1, b"y")), "differ at offset 1"), ((batch(0),), "the logs end at"), ((), "the logs end at")],
)
def test_replicas_that_are_not(held, said):
    assert said in unlike(host(1, batch(0), batch(1)), host(2, *held))


def test_damage_that_lies_still_is_not_compared():
    spoilt = bytearray(batch(1))
    spoilt[HEADER_BYTES] ^= 1
    hosts = host(1, batch(0), bytes(spoilt), batch(2)), host(2, batch(0), batch(1), batch(2))
    assert "differ" in unlike(*hosts)
    assert unlike(*hosts, damaged=[1]) == ""


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (after(leader=NO_LEADER), "nobody leads"),
        (FIRST, "not all replicas are in sync"),
        (after(isr=(1, 2, 3), adding=(3,)), "a reassignment has no end"),
    ],
)
def test_what_is_not_well_yet(record, said):
    hosts = [host(at, record=record) for at in (1, 2, 3)]
    assert said in differences(hosts, Disks(lambda _directory: False), {})


def test_a_node_that_is_not_up():
    lost = host(1)
    lost.node = None
    assert differences([lost], Disks(lambda _directory: False), {}).startswith("C5")
