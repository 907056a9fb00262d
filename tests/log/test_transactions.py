"""Transactions and producers: what readers of committed data may see, and what survives a restart."""

import struct

import pytest

from dduomq.errors import CorruptMessage, InvalidProducerEpoch, InvalidRecord
from dduomq.log import producers, txn_index
from dduomq.log.memory import MemoryFiles
from dduomq.wire.batch import CONTROL, TRANSACTIONAL, build, read_header
from tests.log.helpers import DIRECTORY, append, batch, opened, pending

ABORT, COMMIT = txn_index.ABORT, txn_index.COMMIT


@pytest.fixture
def files():
    return MemoryFiles()


def data(pid, sequence, count=1):
    return batch(pid=pid, epoch=0, sequence=sequence, count=count, attributes=TRANSACTIONAL)


def marker(pid, kind, epoch=0):
    """A control batch as Kafka's coordinator writes it."""
    key, value = struct.pack(">hh", 0, kind), struct.pack(">hi", 0, 0)
    body = b"\x00\x00\x00" + bytes([2 * len(key)]) + key + bytes([2 * len(value)]) + value + b"\x00"
    record = bytes([2 * len(body)]) + body
    return pending(
        build(
            record, count=1, last_offset_delta=0, base_timestamp=1_000, max_timestamp=1_000,
            producer_id=pid, producer_epoch=epoch, attributes=TRANSACTIONAL | CONTROL,
        )
    )  # fmt: skip


def aborted_in(log, files, offset, upper):
    plan = log.read_plan(offset, 1 << 20, upper, committed=True)
    if hasattr(plan, "run"):
        plan = plan.run(files)
    return plan.aborted


def two_transactions(log, files):
    """Producer 1 aborts offsets 0 and 2 with its marker at 3, producer 2 commits 1 with its marker at 4."""
    append(log, files, data(1, 0), data(2, 0), data(1, 1))
    append(log, files, marker(1, ABORT), internal=True)
    append(log, files, marker(2, COMMIT), internal=True)
    append(log, files, batch())


@pytest.mark.parametrize("kind", [ABORT, COMMIT])
def test_a_marker_is_read_as_kafka_writes_it(kind):
    """The record's key says what became of the transaction."""
    assert txn_index.marker_of(marker(1, kind).view) == kind


@pytest.mark.parametrize("record", [b"", b"\x00", b"\xff" * 20, b"\x10\x00\x00\x00\x08\x00\x00\x00\x09\x00"])
def test_what_is_no_marker_is_not_read_as_one(record):
    """Whatever the bytes, there is an answer."""
    view = build(record, count=1, last_offset_delta=0, base_timestamp=1, max_timestamp=1)
    assert txn_index.marker_of(view) == txn_index.UNREADABLE


def test_a_transaction_and_its_end_in_one_plan_leave_nothing_open(files):
    """Batches that are planned together see one another."""
    log, _ = opened(files)
    append(log, files, data(1, 0), marker(1, COMMIT), data(1, 1), internal=True)
    assert (log.last_stable_offset, log.high_watermark) == (2, 3)


def test_the_last_stable_offset_waits_until_the_marker_is_committed(files):
    """A marker that a crash may take away has not ended anything."""
    log, _ = opened(files)
    append(log, files, data(1, 0))
    plan = log.plan_append([marker(1, COMMIT)], 2_000, internal=True)
    plan.run(files)
    log.written(plan, 2_000)
    assert log.last_stable_offset == 0
    log.advance_high_watermark(2)
    assert log.last_stable_offset == 2


def test_an_abandoned_marker_has_ended_nothing(files):
    """As if it had never been planned."""
    log, _ = opened(files)
    append(log, files, data(1, 0))
    log.abandon(log.plan_append([marker(1, ABORT)], 2_000, internal=True))
    append(log, files, batch())
    assert log.last_stable_offset == 0


@pytest.mark.parametrize("how", ["tail", "clean", "crash", "rolled"])
def test_aborted_transactions_are_told_to_readers_of_committed_data(files, how):
    """From memory, from .txnindex, and found again in the log."""
    config = {"segment_bytes": 1024} if how == "rolled" else {}
    log, _ = opened(files, **config)
    two_transactions(log, files)
    if how == "rolled":
        for _ in range(20):
            append(log, files, batch())
    if how == "clean":
        log.plan_close().run(files)
    if how != "tail":
        log, _ = opened(files, clean=how == "clean", epoch=2, **config)
    assert aborted_in(log, files, 0, 6) == ((1, 0),)
    assert aborted_in(log, files, 3, 6) == ((1, 0),)
    assert aborted_in(log, files, 4, 6) == ()
    assert log.last_stable_offset == log.high_watermark


def test_the_transaction_index_is_kafkas(files):
    """34 bytes an entry: version, producer id, first, last and last stable offset."""
    log, _ = opened(files)
    two_transactions(log, files)
    log.plan_close().run(files)
    stored = files.read(f"{DIRECTORY}/00000000000000000000.txnindex")
    assert stored == struct.pack(">hqqqq", 0, 1, 0, 3, 1)


def test_aborted_transactions_go_with_their_segments(files):
    """Nothing is kept of what retention has removed."""
    log, _ = opened(files, segment_bytes=1024)
    two_transactions(log, files)
    for _ in range(30):
        append(log, files, batch())
    log.delete_records(20).run(files)
    assert not [name for name in files.list(DIRECTORY) if name.endswith(".txnindex")]
    log, _ = opened(files, epoch=2, segment_bytes=1024)
    assert aborted_in(log, files, 20, 30) == ()


def test_retention_stops_at_an_open_transaction(files):
    """What is not decided is not removed."""
    log, _ = opened(files, segment_bytes=1024, retention_bytes=0)
    append(log, files, batch(), data(1, 0))
    for _ in range(30):
        append(log, files, batch())
    assert log.plan_retention(5_000) is None
    append(log, files, marker(1, COMMIT), internal=True)
    assert log.plan_retention(5_000) is not None


def test_a_marker_of_an_older_epoch_is_refused(files):
    """A coordinator that was replaced can't end what its successor began."""
    log, _ = opened(files)
    append(log, files, batch(pid=1, epoch=3, sequence=0, attributes=TRANSACTIONAL))
    (outcome,) = append(log, files, marker(1, ABORT, epoch=2), internal=True)
    assert isinstance(outcome, InvalidProducerEpoch)
    assert log.last_stable_offset == 0


# --- producers' snapshots ---------------------------------------------------------------------------------


def test_a_stale_snapshot_does_not_reopen_a_transaction(files):
    """A clean start believes the snapshot of the stop, and no other."""
    log, _ = opened(files, segment_bytes=1024)
    append(log, files, data(1, 0))
    for _ in range(8):
        append(log, files, batch())
    append(log, files, marker(1, COMMIT), internal=True)
    log.plan_retention(2_000 + 90_000_000)
    assert not log.producers.states
    log.plan_close().run(files)
    log, _ = opened(files, clean=True, epoch=2, segment_bytes=1024)
    assert log.last_stable_offset == log.high_watermark


def test_snapshots_do_not_pile_up(files):
    """One at each segment's base and one newer."""
    for epoch in range(1, 8):
        log, _ = opened(files, clean=epoch > 1, epoch=epoch)
        append(log, files, batch(pid=9, epoch=0, sequence=epoch - 1))
        log.plan_close().run(files)
    assert [name for name in files.list(DIRECTORY) if name.endswith(".snapshot")] == ["00000000000000000007.snapshot"]


def test_a_broken_snapshot_means_replaying_from_the_one_before(files):
    """No producer is forgotten, no retry stored twice."""
    log, _ = opened(files, segment_bytes=1024)
    for sequence in range(20):
        append(log, files, batch(pid=7, epoch=0, sequence=sequence))
    log.plan_close().run(files)
    files.contents[f"{DIRECTORY}/00000000000000000020.snapshot"][-1] ^= 1
    log, _ = opened(files, clean=True, epoch=2, segment_bytes=1024)
    (outcome,) = append(log, files, batch(pid=7, epoch=0, sequence=17))
    assert outcome.base_offset == 17


def test_purging_everything_keeps_the_producers(files):
    """A retry of a record that was deleted is still a retry, after a crash too."""
    log, _ = opened(files)
    for sequence in range(3):
        append(log, files, batch(pid=7, epoch=0, sequence=sequence))
    log.delete_records(3).run(files)
    log, _ = opened(files, epoch=2)
    (outcome,) = append(log, files, batch(pid=7, epoch=0, sequence=2))
    assert (outcome.base_offset, log.log_end_offset) == (2, 3)


def test_the_snapshot_is_kafkas(files):
    """Version, CRC of what follows, count, then 46 bytes an entry."""
    log, _ = opened(files)
    append(log, files, batch(pid=7, epoch=2, sequence=4, count=3), now_ms=1_234)
    stored = log.producers.encode()
    assert len(stored) == 10 + 46
    assert stored[:2] == b"\x00\x01"
    assert struct.unpack(">qhiqiqiq", stored[10:]) == (7, 2, 6, 2, 2, 1_234, -1, -1)


@pytest.mark.parametrize("at", range(56))
def test_a_flipped_bit_in_a_snapshot_is_found(files, at):
    """None of it is believed then."""
    log, _ = opened(files)
    append(log, files, batch(pid=7, epoch=2, sequence=4))
    stored = bytearray(log.producers.encode())
    stored[at] ^= 1
    with pytest.raises(CorruptMessage):
        producers.decode(bytes(stored))


@pytest.mark.parametrize(
    ("pid", "epoch", "sequence"), [(7, -1, 0), (7, 0, -1), (-2, 0, 0), (7, -1, -1)]
)  # fmt: skip
def test_a_producer_without_epoch_or_sequence_is_refused(files, pid, epoch, sequence):
    """An id alone can't tell a retry."""
    log, _ = opened(files)
    (outcome,) = append(log, files, batch(pid=pid, epoch=epoch, sequence=sequence))
    assert isinstance(outcome, InvalidRecord)


def test_the_batch_behind_a_marker_is_stored_as_it_came(files):
    """Control batches take an offset like any other."""
    log, _ = opened(files)
    append(log, files, data(1, 0, count=2), marker(1, COMMIT), data(1, 2), internal=True)
    stored = files.read(f"{DIRECTORY}/00000000000000000000.log")
    first = read_header(stored)
    second = read_header(stored, first.size)
    assert (second.base_offset, second.is_control) == (2, True)
    assert read_header(stored, first.size + second.size).base_offset == 3
