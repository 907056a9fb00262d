"""The write-ahead log: what was saved is found again, what was torn is cut, what is damaged is never served."""

from random import Random

import pytest

from dduomq.cluster.raft_conf import bootstrap
from dduomq.cluster.raft_ready import HardState
from dduomq.cluster.wal import NOTHING, open_wal
from dduomq.cluster.wal_frame import SECTOR_BYTES, Place, seal, unseal
from dduomq.errors import CorruptMessage, DiskFull, StorageError, UnsupportedVersion
from dduomq.log.files import RealFiles
from dduomq.log.memory import MemoryFiles
from dduomq.testing.disk import Platter
from dduomq.wire.raft_messages import Configuration, LogEntry, Peer, Snapshot

D = "data/quorum"
FIRST = "data/quorum/wal-00000000000000000001.log"
ME = Peer(1, "a")
BASE = bootstrap([ME])


def entries(first, last, term=2, size=3):
    return tuple(LogEntry(index, term, b"%d" % index + b"x" * size) for index in range(first, last + 1))


def begun(files, segment_bytes=10**6):
    wal, recovered = open_wal(files, D, segment_bytes)
    assert recovered.is_new
    assert recovered.stored.snapshot == NOTHING
    wal.save(HardState(1), (), BASE)
    return wal


def found(files, segment_bytes=10**6):
    return open_wal(files, D, segment_bytes)[1]


def indexes(stored):
    return [(entry.index, entry.term) for entry in stored.entries]


# --- found again ------------------------------------------------------------------------------------


def test_what_was_saved_is_found_again():
    files = MemoryFiles()
    wal = begun(files)
    some = (*entries(2, 4), LogEntry(5, 2, configuration=Configuration((ME,), (Peer(2, "b"),))), LogEntry(6, 2))
    wal.save(HardState(2, ME, 1), some)
    recovered = found(files)
    assert recovered.stored.entries == some
    assert recovered.stored.hard_state == HardState(2, ME, 1)
    assert recovered.stored.snapshot == BASE
    assert not recovered.is_new
    assert not recovered.cut_bytes


def test_it_works_on_a_real_disk(tmp_path):
    files, directory = RealFiles(), str(tmp_path / "quorum")
    wal, _ = open_wal(files, directory, 200)
    wal.save(HardState(1), (), BASE)
    for index in range(2, 20):
        wal.save(HardState(2, ME, index - 1), entries(index, index))
    wal.compact(Snapshot(10, 2, BASE.configuration, b"state"))
    _, recovered = open_wal(files, directory, 200)
    assert indexes(recovered.stored) == [(index, 2) for index in range(11, 20)]
    assert recovered.stored.snapshot.data == b"state"


def test_entries_replace_what_was_there_from_their_index_on():
    files = MemoryFiles()
    wal = begun(files)
    wal.save(HardState(2), entries(2, 6))
    wal.save(HardState(3), entries(4, 5, term=3))
    wal.save(HardState(3), entries(6, 6, term=3))
    assert indexes(found(files).stored) == [(2, 2), (3, 2), (4, 3), (5, 3), (6, 3)]


def test_a_hard_state_alone_is_kept():
    files = MemoryFiles()
    begun(files).save(HardState(7, Peer(2, "b"), 1), ())
    assert found(files).stored.hard_state == HardState(7, Peer(2, "b"), 1)


def test_segments_roll_and_go_when_a_snapshot_covers_them():
    files = MemoryFiles()
    wal = begun(files, 100)
    for index in range(2, 30):
        wal.save(HardState(2), entries(index, index))
    before = [name for name in files.list(D) if name.startswith("wal-")]
    wal.compact(Snapshot(25, 2, BASE.configuration, b"state"))
    after = [name for name in files.list(D) if name.startswith("wal-")]
    assert len(before) > 10
    assert len(after) <= 4
    assert before[-len(after) :] == after
    assert [name for name in files.list(D) if name.startswith("snapshot-")] == ["snapshot-" + "0" * 18 + "25"]
    wal.save(HardState(2, None, 29), entries(30, 30))
    recovered = found(files)
    assert indexes(recovered.stored) == [(index, 2) for index in range(26, 31)]
    assert recovered.stored.hard_state.commit == 29


def test_a_received_snapshot_replaces_the_log():
    files = MemoryFiles()
    wal = begun(files)
    wal.save(HardState(2), entries(2, 9))
    wal.save(HardState(3), entries(51, 52, term=3), Snapshot(50, 3, BASE.configuration, b"state"))
    wal.save(HardState(3), entries(53, 53, term=3))
    recovered = found(files)
    assert recovered.stored.snapshot.index == 50
    assert indexes(recovered.stored) == [(51, 3), (52, 3), (53, 3)]
    assert len([name for name in files.list(D) if name.startswith("wal-")]) == 1


def test_a_crash_between_a_received_snapshot_and_its_log_loses_neither():
    """The snapshot is there, the log is still the old one: it is begun anew, and what follows is found again."""
    files = MemoryFiles()
    for last in (9, 60):  # the old log ends before the snapshot, or has other entries there
        files = MemoryFiles()
        wal = begun(files)
        wal.save(HardState(2, ME), entries(2, last))
        wal._store(Snapshot(50, 3, BASE.configuration, b"state"))
        wal, recovered = open_wal(files, D)
        assert indexes(recovered.stored) == []
        assert recovered.stored.hard_state == HardState(2, ME, 50)
        wal.save(HardState(3, None, 50), entries(51, 51, term=3))
        recovered = found(files)
        assert indexes(recovered.stored) == [(51, 3)]
        assert recovered.stored.snapshot.index == 50


def test_a_crash_at_the_very_beginning_is_made_good():
    files = MemoryFiles()
    wal, _ = open_wal(files, D)
    wal._store(BASE)
    wal, recovered = open_wal(files, D)
    assert not recovered.is_new
    wal.save(HardState(2), entries(2, 3))
    assert indexes(found(files).stored) == [(2, 2), (3, 2)]


# --- torn or damaged --------------------------------------------------------------------------------


def saved_twice(size):
    files = MemoryFiles()
    wal = begun(files)
    wal.save(HardState(2, ME, 1), entries(2, 3))
    end = files.size(FIRST)
    wal.save(HardState(3, None, 1), entries(4, 6, term=3, size=size))
    return files, end


def test_a_torn_save_is_cut_wherever_it_was_torn():
    """At every byte; what was there before is there, nothing of the torn save is, and the log goes on."""
    files, end = saved_twice(20)
    whole = bytes(files.contents[FIRST])
    for cut in range(end, len(whole)):
        files.contents[FIRST] = bytearray(whole[:cut])
        wal, recovered = open_wal(files, D)
        assert indexes(recovered.stored) == [(2, 2), (3, 2)]
        assert recovered.stored.hard_state == HardState(2, ME, 1)
        assert recovered.cut_bytes == cut - end
        wal.save(HardState(4), entries(4, 4, term=4))
        assert indexes(found(files).stored) == [(2, 2), (3, 2), (4, 4)]


def test_a_save_with_a_sector_that_was_never_written_is_torn():
    files, end = saved_twice(600)
    whole = bytes(files.contents[FIRST])
    for sector in range(end // SECTOR_BYTES, len(whole) // SECTOR_BYTES + 1):
        begin, stop = max(sector * SECTOR_BYTES, end), min((sector + 1) * SECTOR_BYTES, len(whole))
        data = bytearray(whole)
        data[begin:stop] = bytes(stop - begin)
        files.contents[FIRST] = data
        recovered = found(files)
        assert indexes(recovered.stored) == [(2, 2), (3, 2)]
        assert recovered.cut_bytes == len(whole) - end


def test_a_flipped_bit_is_damage_and_never_served():
    """In the last save or an earlier one, at every byte: `open_wal` refuses and says what to do."""
    files, _ = saved_twice(20)
    whole = bytes(files.contents[FIRST])
    for position in range(len(whole)):
        files.contents[FIRST] = bytearray(whole)
        files.contents[FIRST][position] ^= 1 << position % 8
        with pytest.raises(CorruptMessage, match="add the node anew"):
            open_wal(files, D)


def test_damage_before_a_whole_save_is_no_torn_tail():
    """Even if a sector is all zeros: the save behind it was written after that one was synced."""
    files, end = saved_twice(20)
    files.contents[FIRST][end - 30 : end] = bytes(30)
    with pytest.raises(CorruptMessage):
        open_wal(files, D)


def test_bytes_of_a_frame_in_a_command_are_not_taken_for_one():
    """A torn save that carries a copy of a whole frame is still a torn one."""
    files, end = saved_twice(20)
    copy = bytes(files.contents[FIRST][:end])
    wal, _ = open_wal(files, D)
    before = files.size(FIRST)
    wal.save(HardState(3), (LogEntry(7, 3, copy + b"x" * 50),))
    del files.contents[FIRST][-10:]
    recovered = found(files)
    assert recovered.stored.entries[-1].index == 6
    assert files.size(FIRST) == before


def test_a_segment_before_the_last_can_not_be_torn():
    files = MemoryFiles()
    wal = begun(files, 50)
    for index in range(2, 6):
        wal.save(HardState(2), entries(index, index))
    del files.contents[FIRST][-3:]
    with pytest.raises(CorruptMessage, match="damaged"):
        open_wal(files, D)


def test_a_missing_segment_is_noticed():
    files = MemoryFiles()
    wal = begun(files, 50)
    for index in range(2, 8):
        wal.save(HardState(2), entries(index, index))
    names = [name for name in files.list(D) if name.startswith("wal-")]
    middle = files.contents.pop(f"{D}/{names[2]}")
    with pytest.raises(CorruptMessage, match="missing"):
        open_wal(files, D)
    files.contents[f"{D}/{names[2]}"] = middle
    for name in names[:2]:
        del files.contents[f"{D}/{name}"]
    with pytest.raises(CorruptMessage, match="older than the log"):
        open_wal(files, D)


def test_a_damaged_snapshot_is_not_served():
    files = MemoryFiles()
    wal = begun(files)
    wal.save(HardState(2), entries(2, 9))
    wal.compact(Snapshot(8, 2, BASE.configuration, b"state"))
    path = f"{D}/snapshot-" + "0" * 19 + "8"
    whole = bytes(files.contents[path])
    for position in range(len(whole)):
        files.contents[path] = bytearray(whole)
        files.contents[path][position] ^= 4
        with pytest.raises(CorruptMessage, match="snapshot"):
            open_wal(files, D)


def test_a_newer_format_is_named():
    files = MemoryFiles()
    begun(files)
    body, _ = unseal(bytes(files.contents[FIRST]), Place(1, 0))
    for newer in (bytes((1, 9)) + body[2:], bytes((7, 1)) + body[2:]):
        files.contents[FIRST] = bytearray(b"".join(seal(newer, Place(1, 0))))
        with pytest.raises(UnsupportedVersion, match="newer"):
            open_wal(files, D)


def test_nonsense_with_the_right_crc_is_refused():
    files = MemoryFiles()
    begun(files)
    body, _ = unseal(bytes(files.contents[FIRST]), Place(1, 0))
    files.contents[FIRST] = bytearray(b"".join(seal(body + b"x", Place(1, 0))))
    with pytest.raises(CorruptMessage, match="no sense"):
        open_wal(files, D)


def test_a_gap_is_damage():
    files = MemoryFiles()
    wal = begun(files)
    wal.save(HardState(2), entries(5, 6))
    with pytest.raises(CorruptMessage, match=r"does not follow .*add the node anew"):
        open_wal(files, D)


# --- crashes and failures ---------------------------------------------------------------------------


def test_after_a_failed_save_nothing_is_written_any_more():
    """Whatever it was: nobody knows what is on the disk."""
    platter = Platter(Random(1))
    wal = begun(platter.files)
    platter.faults.is_full = True
    with pytest.raises(DiskFull):
        wal.save(HardState(2), entries(2, 3))
    platter.faults.is_full = False
    for again in (lambda: wal.save(HardState(2), entries(2, 3)), lambda: wal.compact(BASE)):
        with pytest.raises(StorageError, match="restart"):
            again()
    assert indexes(found(platter.files).stored) == []


def test_power_losses_never_lose_what_save_has_returned_from():
    """Any number of them, at any moment, through rolls, compactions and received snapshots."""
    for seed in range(150):
        rng = Random(seed)
        platter = Platter(Random(seed))
        wal, recovered = open_wal(platter.files, D, 300)
        wal.save(HardState(1), (), BASE)
        stored = found(platter.files, 300).stored
        for _ in range(rng.randrange(3, 12)):
            wal, recovered = open_wal(platter.files, D, 300)
            assert recovered.stored == stored
            stored = _lived(rng, platter, wal, stored)
            platter.lose_power()


def _lived(rng, platter, wal, stored):
    """A life of the log: its end is a save that is cut short by the power, which may be found or not."""
    term = stored.hard_state.term + 1
    for _ in range(rng.randrange(6)):
        last = stored.entries[-1].index if stored.entries else stored.snapshot.index
        match rng.randrange(8):
            case 0 if stored.entries:
                at = rng.choice(stored.entries)
                snapshot = Snapshot(at.index, at.term, BASE.configuration, rng.randbytes(rng.randrange(700)))
                wal.compact(snapshot)
                kept = tuple(entry for entry in stored.entries if entry.index > at.index)
                stored = type(stored)(snapshot, stored.hard_state, kept)
            case 1:
                snapshot = Snapshot(last + rng.randrange(1, 5), term, BASE.configuration, b"s")
                state = HardState(term, None, snapshot.index)
                wal.save(state, (), snapshot)
                stored = type(stored)(snapshot, state, ())
            case _:
                first = rng.randrange(stored.snapshot.index + 1, last + 2)
                more = entries(first, first + rng.randrange(4), term, rng.randrange(300))
                kept = tuple(entry for entry in stored.entries if entry.index < first)
                state = HardState(term, rng.choice((None, ME)), stored.snapshot.index)
                wal.save(state, more)
                stored = type(stored)(stored.snapshot, state, kept + more)
    if rng.random() < 0.5:
        torn, sync = entries(stored.snapshot.index + 1, stored.snapshot.index + 3, term, 500), platter.files.sync
        state = HardState(term + 1, None, stored.snapshot.index)
        platter.files.sync = _fail
        with pytest.raises(StorageError):
            wal.save(state, torn)
        platter.files.sync = sync
        platter.lose_power()
        again = found(platter.files, 300).stored
        assert again in (stored, type(stored)(stored.snapshot, state, torn))
        return again
    return stored


def _fail(_path):
    raise StorageError("the power went away")


def test_a_killed_process_leaves_what_must_be_synced_before_it_is_used():
    """The page cache shows a save that no sync has covered; after the start it must outlive a power loss, too."""
    platter = Platter(Random(3))
    wal = begun(platter.files)
    sync, platter.files.sync = platter.files.sync, _fail
    with pytest.raises(StorageError):
        wal.save(HardState(5, ME, 1), entries(2, 3))
    platter.files.sync = sync
    platter.kill()
    shown = found(platter.files).stored
    assert shown.hard_state == HardState(5, ME, 1)
    platter.lose_power()
    assert found(platter.files).stored == shown
