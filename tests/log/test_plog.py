"""The log machine: appending, reading, producers, retention, bounds."""

import pytest

from dduomq.errors import (
    InvalidProducerEpoch,
    InvalidRecord,
    InvalidTimestamp,
    MessageTooLarge,
    OffsetOutOfRange,
    OutOfOrderSequence,
)
from dduomq.log.memory import MemoryFiles
from dduomq.wire.batch import CONTROL, SEQUENCE_MAX, TRANSACTIONAL, build, read_header
from tests.log.helpers import DIRECTORY, append, batch, opened, read_all, settings


@pytest.fixture
def files():
    return MemoryFiles()


def test_offsets_are_dense_and_rise(files):
    """Each batch begins where the one before ended."""
    log, _ = opened(files)
    outcomes = append(log, files, batch(count=3), batch(), batch(count=2))
    assert [(o.base_offset, o.last_offset) for o in outcomes] == [(0, 2), (3, 3), (4, 5)]
    assert log.log_end_offset == 6


@pytest.mark.parametrize("max_bytes", [1, 500, 10_000])
@pytest.mark.parametrize("segment_bytes", [1024, 5_000, 1_000_000])
def test_everything_appended_is_read_in_order(files, max_bytes, segment_bytes):
    """From the tail cache, through the index and across segments, each batch is read once."""
    log, _ = opened(files, segment_bytes=segment_bytes, index_interval_bytes=300)
    for _ in range(200):
        append(log, files, batch())
    assert read_all(log, files, max_bytes=max_bytes) == list(range(200))


@pytest.mark.parametrize("offset", [0, 1, 57, 130, 199])
def test_a_read_begins_at_the_batch_that_holds_the_offset(files, offset):
    """Any offset can be the first."""
    log, _ = opened(files, segment_bytes=3_000, index_interval_bytes=300)
    for _ in range(100):
        append(log, files, batch(count=2))
    assert read_all(log, files, offset)[0] == offset - offset % 2


def test_nothing_above_the_upper_mark_is_read(files):
    """A batch that ends above it is not given, not even in part."""
    log, _ = opened(files)
    append(log, files, batch(count=2), batch(count=2))
    assert read_all(log, files, upper=3) == [0]
    assert log.read_plan(2, 1_000, 3) is None


def test_offsets_outside_the_log_are_refused(files):
    """Behind the end and before the start."""
    log, _ = opened(files, segment_bytes=1024)
    for _ in range(20):
        append(log, files, batch())
    removal = log.delete_records(10)
    assert removal is not None
    removal.run(files)
    with pytest.raises(OffsetOutOfRange, match="begins at 10"):
        log.read_plan(9, 100, log.high_watermark)
    with pytest.raises(OffsetOutOfRange, match="behind the end"):
        log.read_plan(21, 100, log.high_watermark)
    assert log.read_plan(20, 100, log.high_watermark) is None


def test_a_refused_batch_does_not_hold_up_the_others(files):
    """Each batch has an outcome of its own."""
    log, _ = opened(files, max_message_bytes=200)
    first, large, last = append(log, files, batch(), batch(size=500), batch())
    assert (first.base_offset, last.base_offset) == (0, 1)
    assert isinstance(large, MessageTooLarge)


def test_times_too_far_ahead_are_refused(files):
    """message.timestamp.after.max.ms is an hour by default."""
    log, _ = opened(files)
    (outcome,) = append(log, files, batch(timestamp=2_000 + 3_600_001))
    assert isinstance(outcome, InvalidTimestamp)


def test_log_append_time_is_stamped_and_the_crc_stays_right(files):
    """With LogAppendTime the broker's clock counts."""
    log, _ = opened(files, message_timestamp_type="LogAppendTime")
    (outcome,) = append(log, files, batch(timestamp=5), now_ms=777)
    assert outcome.append_time_ms == 777
    assert read_all(log, files) == [0]
    assert log.max_timestamp() == (777, 0)


def test_clients_may_not_write_control_batches(files):
    """Only the broker's own transactions do."""
    log, _ = opened(files)
    (outcome,) = append(log, files, batch(attributes=CONTROL | TRANSACTIONAL, pid=1, epoch=0))
    assert isinstance(outcome, InvalidRecord)


# --- producers --------------------------------------------------------------------------------------


def test_a_retry_is_a_duplicate_and_gets_the_first_answer(files):
    """One copy in the log for each of the last five batches."""
    log, _ = opened(files)
    for sequence in range(5):
        append(log, files, batch(pid=7, epoch=0, sequence=sequence))
    for sequence in range(5):
        (outcome,) = append(log, files, batch(pid=7, epoch=0, sequence=sequence))
        assert outcome.base_offset == sequence
    assert log.log_end_offset == 5


def test_a_retry_is_a_duplicate_though_a_limit_was_lowered_since(files):
    """It is there: who heard that it was refused would bring it elsewhere, and use its sequence for another one."""
    log, _ = opened(files)
    append(log, files, batch(pid=7, epoch=0, sequence=0))
    log.settings = settings(max_message_bytes=100)
    again = [batch(pid=pid, epoch=0, sequence=sequence) for pid, sequence in ((7, 0), (7, 1), (8, 0))]
    known, other, older = append(log, files, *again)
    assert known.base_offset == 0
    assert [type(one) for one in (other, older)] == [MessageTooLarge, MessageTooLarge]
    assert log.log_end_offset == 1


def test_a_duplicate_inside_one_plan_is_found(files):
    """Batches that are planned together see one another."""
    log, _ = opened(files)
    first, second = append(log, files, batch(pid=7, epoch=0, sequence=0), batch(pid=7, epoch=0, sequence=0))
    assert first == second
    assert log.log_end_offset == 1


def test_a_gap_in_the_sequence_is_refused(files):
    """Something before it is missing."""
    log, _ = opened(files)
    append(log, files, batch(pid=7, epoch=0, sequence=0))
    (outcome,) = append(log, files, batch(pid=7, epoch=0, sequence=2))
    assert isinstance(outcome, OutOfOrderSequence)


def test_sequences_wrap(files):
    """After 2^31 - 1 comes 0."""
    log, _ = opened(files)
    append(log, files, batch(pid=7, epoch=0, sequence=SEQUENCE_MAX))
    (outcome,) = append(log, files, batch(pid=7, epoch=0, sequence=0))
    assert outcome.base_offset == 1


def test_an_old_epoch_is_refused_and_a_new_one_begins_at_zero(files):
    """A zombie can't write any more."""
    log, _ = opened(files)
    append(log, files, batch(pid=7, epoch=1, sequence=0))
    old, middle, new = append(
        log,
        files,
        batch(pid=7, epoch=0, sequence=1),
        batch(pid=7, epoch=2, sequence=3),
        batch(pid=7, epoch=2, sequence=0),
    )
    assert isinstance(old, InvalidProducerEpoch)
    assert isinstance(middle, OutOfOrderSequence)
    assert new.base_offset == 1


@pytest.mark.parametrize("clean", [True, False])
def test_producers_survive_a_restart(files, clean):
    """A retry after the restart is still a duplicate, whichever of the last five it is."""
    log, _ = opened(files)
    for sequence in range(6):
        append(log, files, batch(pid=7, epoch=0, sequence=sequence))
    if clean:
        log.plan_close().run(files)
    again, _ = opened(files, clean=clean, epoch=2)
    for sequence in range(1, 6):
        (outcome,) = append(again, files, batch(pid=7, epoch=0, sequence=sequence))
        assert outcome.base_offset == sequence
    (outcome,) = append(again, files, batch(pid=7, epoch=0, sequence=6))
    assert outcome.base_offset == 6


def test_the_last_stable_offset_waits_for_the_transaction(files):
    """An open transaction holds it back; its control batch lets it go."""
    log, _ = opened(files)
    append(log, files, batch())
    append(log, files, batch(pid=9, epoch=0, sequence=0, attributes=TRANSACTIONAL))
    append(log, files, batch())
    assert (log.last_stable_offset, log.high_watermark) == (1, 3)
    append(log, files, batch(pid=9, epoch=0, attributes=TRANSACTIONAL | CONTROL), internal=True)
    assert log.last_stable_offset == log.high_watermark == 4


# --- marks, retention, bounds -----------------------------------------------------------------------


def test_an_abandoned_plan_leaves_no_trace(files):
    """After a failed write the next batch gets the same offset."""
    log, _ = opened(files)
    append(log, files, batch(pid=7, epoch=0, sequence=0))
    plan = log.plan_append([batch(pid=7, epoch=0, sequence=1)], 2_000)
    log.abandon(plan)
    (outcome,) = append(log, files, batch(pid=7, epoch=0, sequence=1))
    assert outcome.base_offset == 1


def test_the_flushed_mark_follows_the_flush_not_the_write(files):
    """What was written after the flush was planned is not in it."""
    log, _ = opened(files)
    plan = log.plan_append([batch()], 2_000)
    plan.run(files)
    log.written(plan, 2_000)
    flush = log.plan_flush()
    later = log.plan_append([batch()], 2_000)
    later.run(files)
    log.written(later, 2_000)
    flush.run(files)
    log.flushed(flush.end_offset)
    assert (log.flushed_offset, log.log_end_offset) == (1, 2)


def test_retention_by_time_lets_whole_old_segments_go(files):
    """The active segment stays, whatever its age."""
    log, _ = opened(files, segment_bytes=1024, retention_ms=1_000)
    for number in range(40):
        append(log, files, batch(timestamp=number), now_ms=number)
    log.plan_retention(1_010).run(files)
    assert log.log_start_offset > 0
    assert read_all(log, files, log.log_start_offset)[-1] == 39
    assert len(log.segments) == sum(name.endswith(".log") for name in files.list(DIRECTORY))


def test_retention_by_size_keeps_at_least_that_much(files):
    """Only what is beyond the bound goes."""
    log, _ = opened(files, segment_bytes=1024, retention_bytes=3_000)
    for _ in range(60):
        append(log, files, batch())
    log.plan_retention(5_000).run(files)
    assert 3_000 <= log.size_bytes < 3_000 + 1024 + 161


def test_drop_oldest_moves_the_start(files):
    """A bounded topic holds its newest records."""
    log, _ = opened(files, segment_bytes=1024, capacity_records=10, capacity_policy="drop-oldest")
    for _ in range(60):
        append(log, files, batch())
        removal = log.plan_retention(2_000)
        if removal is not None:
            removal.run(files)
    assert log.log_end_offset - log.log_start_offset == 10


def test_a_segment_rolls_by_age(files):
    """segment.ms closes a segment that is not full."""
    log, _ = opened(files, segment_ms=100)
    append(log, files, batch(), now_ms=1_000)
    append(log, files, batch(), now_ms=1_050)
    append(log, files, batch(), now_ms=1_200)
    assert [segment.base_offset for segment in log.segments] == [0, 2]


def test_a_time_is_found(files):
    """The first record at or after it."""
    log, _ = opened(files, segment_bytes=2_000, index_interval_bytes=300)
    for number in range(50):
        append(log, files, batch(timestamp=number * 10), now_ms=1_000)
    assert log.seek_time(0).run(files)[1] == 0
    assert log.seek_time(255).run(files)[1] == 26
    assert log.seek_time(490).run(files)[1] == 49
    assert log.seek_time(491).run(files) is None


def test_a_stamped_batch_is_the_producers_own_bytes(files):
    """Only base offset and leader epoch differ from what came."""
    log, _ = opened(files, epoch=4)
    came = bytes(build(b"abc", count=1, last_offset_delta=0, base_timestamp=5, max_timestamp=5))
    append(log, files, batch())
    view = memoryview(bytearray(came))
    from dduomq.log.plog import PendingBatch

    append(log, files, PendingBatch(view, read_header(view)))
    stored = files.read(f"{DIRECTORY}/00000000000000000000.log")[161:]
    assert stored[8:12] + stored[16:] == came[8:12] + came[16:]
    header = read_header(stored)
    assert (header.base_offset, header.leader_epoch) == (1, 4)
