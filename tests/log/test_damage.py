"""What a bad batch means, wherever it lies."""

import struct

import pytest

from dduomq.errors import CorruptMessage, StorageError
from dduomq.log.index import decode as decode_index
from dduomq.log.memory import MemoryFiles
from dduomq.log.plans import mark_offline
from dduomq.wire.batch import build
from tests.log.helpers import DIRECTORY, append, batch, opened, pending, read_all

LOG = f"{DIRECTORY}/00000000000000000000.log"
BATCH_BYTES = 161


def filled(count=20, **config):
    files = MemoryFiles()
    log, _ = opened(files, **config)
    for number in range(count):
        append(log, files, batch(timestamp=1_000 + number))
    return files, log


@pytest.mark.parametrize("at", [0, 9, 10, 11, 16, 17, 22, 40, 58, 100, 160])
def test_a_flipped_bit_at_the_end_of_a_closed_segment_costs_one_batch(at):
    """The acknowledged segments behind it are kept and served."""
    files, _ = filled(segment_bytes=1024)
    last = len(files.contents[LOG]) - BATCH_BYTES
    files.contents[LOG][last + at] ^= 0x40
    log, report = opened(files, segment_bytes=1024)
    assert (report.quarantined, report.cut_bytes) == (((5, 6),), 0)
    assert log.log_end_offset == 20
    assert read_all(log, files, 6) == list(range(6, 20))
    with pytest.raises(CorruptMessage, match="go on at 6"):
        log.read_plan(5, 1_000, 20)


def test_a_closed_segment_that_lost_its_end_ends_the_log():
    """What was never synced was not acknowledged, and neither was what was written after it."""
    files, _ = filled(segment_bytes=1024)
    files.truncate(LOG, 4 * BATCH_BYTES)
    log, report = opened(files, segment_bytes=1024)
    assert log.log_end_offset == 4
    assert report.cut_bytes == 14 * BATCH_BYTES
    assert read_all(log, files) == [0, 1, 2, 3]
    assert [name for name in files.list(DIRECTORY) if name.endswith(".log")] == [LOG.rpartition("/")[2]]


def test_a_gap_between_segments_below_the_recovery_point_is_damage():
    """What is behind it was acknowledged."""
    files, log = filled(segment_bytes=1024)
    log.plan_checkpoint().run(files)
    point = f"{DIRECTORY}/recovery-point"
    files.truncate(LOG, 4 * BATCH_BYTES)
    files.replace(point, b"0\n5\n")
    log, report = opened(files, segment_bytes=1024)
    assert report.quarantined == ((4, 6),)
    assert read_all(log, files, 6) == list(range(6, 20))


@pytest.mark.parametrize("cut", [1, 50, 300, 500, 700])
def test_a_batch_inside_a_record_is_not_taken_for_one(cut):
    """A torn batch whose value holds a whole batch is torn; its offsets are given again."""
    files, log = filled(3)
    inner = bytes(build(b"inner", count=1, last_offset_delta=0, base_timestamp=1, max_timestamp=1, base_offset=50))
    outer = build(b"a" * 100 + inner + b"b" * 600, count=1, last_offset_delta=0, base_timestamp=1, max_timestamp=1)
    append(log, files, pending(outer))
    files.truncate(LOG, len(files.contents[LOG]) - cut)
    log, report = opened(files)
    assert (log.log_end_offset, report.quarantined) == (3, ())


def test_two_damaged_batches_side_by_side_are_one_range_after_the_other():
    """Each is reported, the rest is served."""
    files, _ = filled(6)
    for number in (2, 3):
        files.contents[LOG][number * BATCH_BYTES + 100] ^= 1
    log, report = opened(files)
    assert report.quarantined == ((2, 4),)
    assert read_all(log, files, upper=2) == [0, 1]
    assert read_all(log, files, 4) == [4, 5]


def test_damage_is_reported_once_and_known_for_good():
    """A second crash finds the same ranges; what was appended meanwhile is there."""
    files, _ = filled(6)
    files.contents[LOG][2 * BATCH_BYTES + 100] ^= 1
    log, _ = opened(files)
    append(log, files, batch())
    again, report = opened(files, epoch=2)
    assert report.quarantined == ()
    assert read_all(again, files, 3) == [3, 4, 5, 6]
    with pytest.raises(CorruptMessage):
        again.read_plan(2, 1_000, 7)


def test_a_batch_that_rotted_after_the_start_is_not_served():
    """A read that walks the log checks what it gives."""
    files, _ = filled(200)
    log, _ = opened(files)
    files.contents[LOG][50 * BATCH_BYTES + 100] ^= 1
    seek = log.read_plan(48, 10 * BATCH_BYTES, 200)
    assert seek.run(files).next_offset == 50
    with pytest.raises(CorruptMessage, match="offset 50"):
        log.read_plan(50, 1_000, 200).run(files)


@pytest.mark.parametrize("garbage", ["beyond", "later", "inside", "zeros"])
def test_a_wrong_index_does_not_hide_records(garbage):
    """The index is a hint: what it says is checked against the log."""
    files, log = filled(200, index_interval_bytes=300)
    log.plan_close().run(files)
    path = LOG.replace(".log", ".index")
    count = len(decode_index(bytes(files.contents[path])))
    wrong = {
        "beyond": [(n, 10**6 + n) for n in range(count)],
        "later": [(n, BATCH_BYTES * (100 + n)) for n in range(count)],
        "inside": [(n, BATCH_BYTES * n + 7) for n in range(count)],
        "zeros": [(0, 0)] * count,
    }[garbage]
    files.contents[path][:] = b"".join(struct.pack(">ii", *entry) for entry in wrong)
    log, _ = opened(files, clean=True, index_interval_bytes=300)
    assert read_all(log, files, 10) == list(range(10, 200))
    assert log.seek_time(1_020).run(files) == (1_020, 20) or log.seek_time(1_020).run(files)[1] == 20


def test_a_time_is_found_behind_damage():
    """Damage hides its own records only."""
    files, _ = filled(10)
    files.contents[LOG][2 * BATCH_BYTES + 9] ^= 0x40
    log, _ = opened(files)
    assert log.seek_time(1_004).run(files)[1] == 4


# --- what recovery reads --------------------------------------------------------------------------------


class Counting(MemoryFiles):
    """Counts the bytes that are read from logs."""

    def __init__(self, contents, directories):
        super().__init__()
        self.contents, self.directories = contents, directories
        self.log_bytes = 0

    def read_at(self, path, position, size):
        data = super().read_at(path, position, size)
        self.log_bytes += len(data) if path.endswith(".log") else 0
        return data


@pytest.mark.parametrize("pid", [-1, 7])
def test_closed_segments_below_the_recovery_point_are_not_read(pid):
    """However long the log, a crash costs what lies above the recovery point."""
    files = MemoryFiles()
    log, _ = opened(files, segment_bytes=10_000)
    for number in range(1_000):
        append(log, files, batch(pid=pid, epoch=0, sequence=number) if pid > 0 else batch())
    log.plan_checkpoint().run(files)
    counting = Counting(files.contents, files.directories)
    log, _ = opened(counting, segment_bytes=10_000)
    assert log.log_end_offset == 1_000
    assert counting.log_bytes < 30_000


def test_a_long_segment_is_read_from_shortly_before_the_recovery_point():
    """Its index, where it can be believed, tells where; what recovery makes of it is what the writer made."""
    files = MemoryFiles()
    log, _ = opened(files)
    for number in range(300):
        append(log, files, batch(20_000, timestamp=1_000 + number))
    log.plan_checkpoint().run(files)
    for number in range(5):
        append(log, files, batch(20_000, timestamp=2_000 + number))
    before = log.describe(), log.max_timestamp()
    counting = Counting(files.contents, files.directories)
    log, report = opened(counting)
    assert (log.describe(), log.max_timestamp()) == before
    assert report.scanned_bytes < 1_300_000
    assert read_all(log, files, max_bytes=10**6) == list(range(305))


def test_an_index_that_recovery_can_not_believe_means_reading_all():
    """A flipped bit in it does not decide where recovery begins."""
    files = MemoryFiles()
    log, _ = opened(files)
    for _ in range(200):
        append(log, files, batch(20_000))
    log.plan_checkpoint().run(files)
    path = LOG.replace(".log", ".index")
    for at in range(0, len(files.contents[path]), 8):
        files.contents[path][at + 6] ^= 1
    log, report = opened(files)
    assert (log.log_end_offset, report.rebuilt_indexes) == (200, 1)
    assert report.scanned_bytes == 200 * 20_061


# --- the log's start --------------------------------------------------------------------------------------


def test_a_purge_within_a_segment_survives_a_crash():
    """The records before the start are whole batches, not damage, and stay deleted."""
    files, log = filled(20)
    log.delete_records(10).run(files)
    log, report = opened(files, epoch=2)
    assert (log.log_start_offset, log.log_end_offset, report.quarantined) == (10, 20, ())
    assert read_all(log, files, 10)[-1] == 19


def test_offsets_that_were_deleted_are_not_given_again():
    """Even if the tail above the start was lost with the power."""
    files, log = filled(20)
    log.delete_records(15).run(files)
    log.plan_checkpoint().run(files)
    files.replace(f"{DIRECTORY}/recovery-point", b"0\n5\n")
    files.truncate(LOG, 8 * BATCH_BYTES)
    log, _ = opened(files, epoch=2)
    assert (log.log_start_offset, log.log_end_offset) == (15, 15)
    (outcome,) = append(log, files, batch())
    assert outcome.base_offset == 15
    assert read_all(opened(files, epoch=3)[0], files, 15) == [15]


def test_epochs_are_found_again_in_the_batches():
    """A lost checkpoint is made again from what recovery reads."""
    files = MemoryFiles()
    for epoch in (3, 4):
        log, _ = opened(files, epoch=epoch)
        append(log, files, batch())
    files.contents[f"{DIRECTORY}/leader-epoch-checkpoint"][:] = b"junk"
    log, _ = opened(files, epoch=5)
    assert log.epochs.entries == ((3, 0), (4, 1))


# --- a disk that fails ------------------------------------------------------------------------------------


class Failing(MemoryFiles):
    """Writes of logs fail, and are cut back as a real disk's are."""

    fails = False

    def write_at(self, path, buffers, position, *, reserve_to=0):
        if self.fails and ".log" in path:
            if path in self.contents:
                del self.contents[path][position:]
            raise StorageError(f"{path}: Input/output error")
        super().write_at(path, buffers, position, reserve_to=reserve_to)


def test_a_restore_that_fails_loses_nothing():
    """The old file is there until the new one is synced."""
    files = Failing()
    log, _ = opened(files)
    for _ in range(5):
        append(log, files, batch())
    log.flushed_offset = 2
    mark_offline(files, log.directory, log.flushed_offset, "fdatasync: Input/output error")
    files.fails = True
    with pytest.raises(StorageError):
        opened(files, restore=True)
    files.fails = False
    log, _ = opened(files, restore=True)
    assert read_all(log, files) == list(range(5))


def test_a_failed_write_is_as_if_it_had_not_been():
    """The disk is full, later it is not: the same batch gets the same offset."""
    files = Failing()
    log, _ = opened(files, segment_bytes=1024)
    for _ in range(6):
        append(log, files, batch())
    files.fails = True
    plan = log.plan_append([batch()], 2_000)
    assert plan.rolled
    with pytest.raises(StorageError):
        plan.run(files)
    log.abandon(plan)
    files.fails = False
    assert [segment.base_offset for segment in log.segments] == [0]
    (outcome,) = append(log, files, batch())
    assert outcome.base_offset == 6
    assert read_all(log, files) == list(range(7))
    assert read_all(opened(files, segment_bytes=1024)[0], files) == list(range(7))
