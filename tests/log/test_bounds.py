"""What a log refuses, lets go, and holds at most."""

import pytest

from dduomq.errors import DduomqError, InvalidRecord, InvalidTimestamp, Overloaded
from dduomq.limits import RECORDS_PER_BATCH_MAX
from dduomq.log.files import RealFiles
from dduomq.log.memory import MemoryFiles
from dduomq.log.plans import WritePlan
from dduomq.log.recover import open_log
from dduomq.wire.batch import LOG_APPEND_TIME, build
from tests.log.helpers import DIRECTORY, append, batch, opened, pending, read_all, settings

HOUR_MS = 3_600_000


@pytest.fixture
def files():
    return MemoryFiles()


def odd(count, delta, timestamp=1_000):
    return pending(
        build(b"x", count=count, last_offset_delta=delta, base_timestamp=timestamp, max_timestamp=timestamp)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("count", "delta"), [(0, 0), (1, 1), (2, 0), (1, 2**31 - 1), (RECORDS_PER_BATCH_MAX + 1, RECORDS_PER_BATCH_MAX)]
)  # fmt: skip
def test_a_count_that_does_not_fit_the_offsets_is_refused(files, count, delta):
    """Offsets are dense, and can't be used up by one batch."""
    log, _ = opened(files)
    (outcome,) = append(log, files, odd(count, delta))
    assert isinstance(outcome, InvalidRecord)
    assert log.log_end_offset == 0


def test_the_brokers_own_batches_may_have_holes(files):
    """As compaction leaves them, an empty one too."""
    log, _ = opened(files)
    outcomes = append(log, files, odd(1, 4), odd(0, 2), internal=True)
    assert [outcome.last_offset for outcome in outcomes] == [4, 7]


def test_offsets_of_a_segment_fit_the_index(files):
    """Kafka's index has 32 bits for them: a plan that does not fit is refused in part, the next one rolls."""
    log, _ = opened(files, index_interval_bytes=0)
    most = RECORDS_PER_BATCH_MAX
    outcomes = append(log, files, *[odd(most, most - 1) for _ in range(2_150)])
    refused = [outcome for outcome in outcomes if isinstance(outcome, DduomqError)]
    assert refused
    assert all(isinstance(outcome, Overloaded) for outcome in refused)
    append(log, files, odd(most, most - 1))
    assert len(log.segments) == 2
    log.plan_close().run(files)


def test_the_time_type_is_the_brokers_to_set(files):
    """A producer that says LogAppendTime for a CreateTime topic is refused, as by Kafka."""
    log, _ = opened(files)
    (outcome,) = append(log, files, batch(attributes=LOG_APPEND_TIME))
    assert isinstance(outcome, InvalidTimestamp)


@pytest.mark.parametrize(
    ("timestamp", "is_refused"), [(2_000 + HOUR_MS, False), (2_001 + HOUR_MS, True), (1_500, False), (1_499, True)]
)
def test_how_far_times_may_lie_away(files, timestamp, is_refused):
    """To the millisecond."""
    log, _ = opened(files, message_timestamp_before_max_ms=500)
    (outcome,) = append(log, files, batch(timestamp=timestamp))
    assert isinstance(outcome, InvalidTimestamp) is is_refused


def test_a_plan_of_many_batches_does_not_outgrow_the_segment(files):
    """It rolls when not all of them fit."""
    log, _ = opened(files, segment_bytes=1024)
    append(log, files, *[batch() for _ in range(4)])
    append(log, files, *[batch() for _ in range(4)])
    assert [segment.base_offset for segment in log.segments] == [0, 4]


# --- retention ----------------------------------------------------------------------------------------------


def test_everything_old_goes_the_active_segment_too(files):
    """A topic that is written no more is empty after its retention; its offsets go on."""
    log, _ = opened(files, segment_bytes=1024, retention_ms=1_000)
    for _ in range(20):
        append(log, files, batch(), now_ms=1_000)
    log.plan_retention(5_000).run(files)
    assert (log.log_start_offset, log.log_end_offset, log.size_bytes) == (20, 20, 0)
    assert not [name for name in files.list(DIRECTORY) if name.endswith(".log")]
    for clean in (False, True):
        log, report = opened(files, clean=clean, epoch=2, segment_bytes=1024)
        assert (log.log_start_offset, log.log_end_offset, report.cut_bytes) == (20, 20, 0)
        log.plan_close().run(files)
    (outcome,) = append(log, files, batch())
    assert outcome.base_offset == 20
    assert read_all(log, files, 20) == [20]


def test_a_write_in_flight_keeps_its_segment(files):
    """Nothing is taken away below a write."""
    log, _ = opened(files, retention_ms=1_000)
    append(log, files, batch(), now_ms=1_000)
    plan = log.plan_append([batch()], 90_000)
    assert log.plan_retention(90_000) is None
    plan.run(files)
    log.written(plan, 90_000)
    assert log.log_end_offset == 2


def test_a_record_from_the_future_does_not_keep_a_segment_for_ever(files):
    """The append time counts when it is earlier."""
    log, _ = opened(files, segment_bytes=1024, retention_ms=1_000)
    for _ in range(20):
        append(log, files, batch(timestamp=2_000 + HOUR_MS), now_ms=2_000)
    assert log.plan_retention(2_500) is None
    assert log.plan_retention(3_001) is not None


def test_records_without_a_time_age_by_their_append(files):
    """Timestamp -1 is none."""
    log, _ = opened(files, segment_bytes=1024, retention_ms=1_000)
    for _ in range(20):
        append(log, files, batch(timestamp=-1), now_ms=2_000)
    assert log.plan_retention(2_500) is None
    assert log.plan_retention(3_001) is not None


def test_retention_off_keeps_everything(files):
    """retention.ms=-1."""
    log, _ = opened(files, segment_bytes=1024, retention_ms=-1)
    for _ in range(20):
        append(log, files, batch())
    assert log.plan_retention(10**15) is None


def test_a_segments_age_survives_a_restart(files):
    """segment.ms counts from its first record, not from the start of the node."""
    log, _ = opened(files, segment_ms=1_000)
    append(log, files, batch(timestamp=1_000), now_ms=1_000)
    log.plan_close().run(files)
    log, _ = opened(files, clean=True, epoch=2, now_ms=1_900, segment_ms=1_000)
    append(log, files, batch(), now_ms=2_500)
    assert [segment.base_offset for segment in log.segments] == [0, 1]


def test_a_purge_of_everything_makes_room(files):
    """A bounded topic that refuses takes records again."""
    log, _ = opened(files, capacity_bytes=1_000)
    while log.has_room(1, 161):
        append(log, files, batch())
    log.delete_records(log.high_watermark).run(files)
    assert log.size_bytes == 0
    assert log.has_room(1, 161)


def test_drop_oldest_by_size_keeps_the_newest(files):
    """Whole segments go until it fits."""
    log, _ = opened(files, segment_bytes=1024, capacity_bytes=3_000, capacity_policy="drop-oldest")
    for _ in range(60):
        append(log, files, batch())
        removal = log.plan_retention(2_000)
        if removal is not None:
            removal.run(files)
        assert log.size_bytes <= 3_000
    assert read_all(log, files, log.log_start_offset)[-1] == 59


# --- jobs beside each other, on a real disk -----------------------------------------------------------------


def real(tmp_path, **config):
    files = RealFiles()
    log, _ = open_log(
        files, f"{tmp_path}/t-0", settings(**config), leader_epoch=1, topic_id="id", clean=False, now_ms=2_000
    )
    for _ in range(20):
        plan = log.plan_append([batch()], 2_000)
        plan.run(files)
        log.written(plan, 2_000)
    log.advance_high_watermark(20)
    return files, log


def test_a_segment_may_go_before_it_is_synced(tmp_path):
    """What nobody needs any more is no disk failure: neither for the flush that was planned nor at the close."""
    files, log = real(tmp_path, segment_bytes=1024)
    flush = log.plan_flush()
    log.delete_records(12).run(files)
    flush.run(files)
    log.flushed(flush.end_offset)
    log.plan_close().run(files)
    assert log.flushed_offset == 20


def test_reserved_space_is_given_back(tmp_path):
    """At the roll and at the close; the file's size is always the end of what was written."""
    files, log = real(tmp_path)
    path = tmp_path / "t-0" / "00000000000000000000.log"
    assert path.stat().st_size == 20 * 161
    log.plan_close().run(files)
    assert path.stat().st_size == 20 * 161
    assert path.stat().st_blocks * 512 < 64 * 1024


def test_nothing_changed_means_nothing_to_close(tmp_path):
    """Ten thousand quiet partitions stop without a sync."""
    files, log = real(tmp_path)
    log.plan_close().run(files)
    log, _ = open_log(
        files, f"{tmp_path}/t-0", settings(), leader_epoch=2, topic_id="id", clean=True, now_ms=2_000
    )  # fmt: skip
    assert log.plan_close().steps == ()
    assert log.plan_checkpoint() is None


def test_an_empty_plan_asks_for_nothing(files):
    """When all are refused there is no write."""
    log, _ = opened(files, max_message_bytes=10)
    plan = log.plan_append([batch()], 2_000)
    assert isinstance(plan, WritePlan)
    assert (plan.size, plan.before, plan.rolled) == (0, (), False)
    log.written(plan, 2_000)
    assert log.plan_flush() is None
