"""Opening a log after a clean stop, a crash, damage."""

import pytest

from dduomq.errors import CorruptMessage, StorageError
from dduomq.log.memory import MemoryFiles
from dduomq.log.plans import RECOVERY_POINT, decode_number, mark_offline
from tests.log.helpers import DIRECTORY, append, batch, opened, read_all

LOG = f"{DIRECTORY}/00000000000000000000.log"
BATCH_BYTES = 161


def filled(count=10, **config):
    """Files with a log of `count` batches in it."""
    files = MemoryFiles()
    log, _ = opened(files, **config)
    for number in range(count):
        append(log, files, batch(timestamp=1_000 + number))
    return files, log


def test_a_clean_log_is_not_read():
    """After a clean stop no batch is looked at."""
    files, log = filled(segment_bytes=1024)
    log.plan_close().run(files)
    again, report = opened(files, clean=True)
    assert report.scanned_bytes == 0
    assert again.describe() == log.describe()
    assert read_all(again, files) == list(range(10))
    assert again.max_timestamp() == (1_009, 9)


@pytest.mark.parametrize("cut", range(1, BATCH_BYTES))
def test_a_torn_tail_is_cut_at_every_byte(cut):
    """Whatever part of the last batch was written, the whole ones before it stay."""
    files, _ = filled(3)
    files.truncate(LOG, 3 * BATCH_BYTES - cut)
    log, report = opened(files)
    assert log.log_end_offset == 2
    assert report.cut_bytes == BATCH_BYTES - cut
    assert read_all(log, files) == [0, 1]
    (outcome,) = append(log, files, batch())
    assert outcome.base_offset == 2
    assert read_all(log, files) == [0, 1, 2]


def test_a_torn_tail_of_zeros_is_cut():
    """Space that was reserved and never written is no damage."""
    files, _ = filled(3)
    files.write_at(LOG, [bytes(5_000)], 3 * BATCH_BYTES)
    log, report = opened(files)
    assert (log.log_end_offset, report.cut_bytes, report.quarantined) == (3, 5_000, ())


@pytest.mark.parametrize("at", [0, 9, 16, 17, 22, 40, 58, 100, 160])
def test_a_flipped_bit_with_whole_batches_behind_it_is_damage(at):
    """It is reported and not served; what lies behind it is."""
    files, _ = filled(6)
    files.contents[LOG][2 * BATCH_BYTES + at] ^= 0x40
    log, report = opened(files)
    if not report.quarantined:  # a flip in base offset or leader epoch, which no CRC covers
        pytest.fail("the damage was not found")
    assert report.quarantined == ((2, 3),)
    assert log.log_end_offset == 6
    assert read_all(log, files, upper=2) == [0, 1]
    with pytest.raises(CorruptMessage, match="go on at 3"):
        log.read_plan(2, 1_000, 6)
    assert read_all(log, files, 3) == [3, 4, 5]


def test_the_damage_is_known_after_the_next_restart_too():
    """A clean stop does not make a damaged batch good."""
    files, _ = filled(6)
    files.contents[LOG][2 * BATCH_BYTES + 100] ^= 1
    log, _ = opened(files)
    log.plan_close().run(files)
    again, _ = opened(files, clean=True)
    with pytest.raises(CorruptMessage):
        again.read_plan(2, 1_000, 6)


def test_a_flipped_bit_in_the_last_batch_below_the_recovery_point_is_damage():
    """It was synced, so it can't be a torn tail; its offsets are not given again."""
    files, log = filled(4)
    log.plan_checkpoint().run(files)
    assert decode_number(files.read(f"{DIRECTORY}/{RECOVERY_POINT}")) == 4
    files.contents[LOG][3 * BATCH_BYTES + 100] ^= 1
    again, report = opened(files)
    assert report.quarantined == ((3, 4),)
    (outcome,) = append(again, files, batch())
    assert outcome.base_offset == 4
    assert read_all(again, files, 4) == [4]


@pytest.mark.parametrize("damage", ["gone", "empty", "garbage"])
def test_lost_indexes_are_made_again(damage):
    """The indexes are a hint; without them the log is whole."""
    files, log = filled(100, index_interval_bytes=300)
    log.plan_checkpoint().run(files)
    path = LOG.replace(".log", ".index")
    if damage == "gone":
        files.remove(path)
    else:
        files.contents[path] = bytearray() if damage == "empty" else bytearray(b"\x7f" * 80)
    again, report = opened(files, index_interval_bytes=300)
    assert report.rebuilt_indexes == 1
    assert read_all(again, files, 50)[0] == 50


def test_an_unclean_open_gives_what_was_flushed_and_a_new_epoch_begins():
    """The next append is stamped with the new leadership's epoch, noted in Kafka's checkpoint."""
    files, _ = filled(3)
    log, _ = opened(files, epoch=5)
    append(log, files, batch())
    assert files.read(f"{DIRECTORY}/leader-epoch-checkpoint") == b"0\n2\n1 0\n5 3\n"


def test_a_log_taken_offline_stays_offline_until_it_is_restored():
    """The marker refuses service; restoring writes and syncs everything anew."""
    files, log = filled(3)
    mark_offline(files, log.directory, log.flushed_offset, "fdatasync: Input/output error")
    with pytest.raises(StorageError, match="offline"):
        opened(files)
    again, _ = opened(files, restore=True)
    assert read_all(again, files) == [0, 1, 2]
    opened(files)


def test_segments_behind_a_cut_are_dropped():
    """Offsets that don't follow can't be right."""
    files, _ = filled(20, segment_bytes=1024)
    first = f"{DIRECTORY}/00000000000000000006.log"
    assert files.exists(first)
    files.truncate(first, 100)
    log, _ = opened(files, segment_bytes=1024)
    assert log.log_end_offset == 6
    assert read_all(log, files) == list(range(6))
