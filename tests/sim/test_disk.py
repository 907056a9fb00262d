"""The simulated disk: what was synced stays, what was not is left to chance, and a seed decides."""

from random import Random

import pytest
import trio
import trio.testing

from dduomq.errors import DiskFull, StorageError
from dduomq.testing.atlas import damage_hint, damage_log
from dduomq.testing.disk import SECTOR_BYTES, Faults, Platter, SimDisk
from dduomq.wire.batch import build

LOG = "data/topics/t-0/00000000000000000000.log"
DIRECTORY = "data/topics/t-0"


def platter(seed=1):
    disk = Platter(Random(seed))
    disk.files.make_dir(DIRECTORY)
    return disk


def after_power_loss(seed, write):
    """What is left of a file, b"" if nothing, when the power goes after `write`."""
    disk = platter(seed)
    write(disk.files)
    disk.lose_power()
    return disk.files.read(LOG) if disk.files.exists(LOG) else b""


def test_what_was_synced_stays():
    """File and name, whatever the seed; later writes may or may not be there."""

    def write(files):
        files.write_at(LOG, [b"a" * 1_000], 0)
        files.sync(LOG)
        files.sync_dir(DIRECTORY)
        files.write_at(LOG, [b"b" * 1_000], 1_000)

    for seed in range(50):
        assert after_power_loss(seed, write)[:1_000] == b"a" * 1_000


def test_what_was_not_synced_meets_every_fate():
    """Gone, whole, torn where a sector ends, and there without what was written before it."""

    def write(files):
        files.write_at(LOG, [b""], 0)
        files.sync(LOG)
        files.sync_dir(DIRECTORY)
        files.write_at(LOG, [b"a" * 2_000], 0)
        files.write_at(LOG, [b"b" * 2_000], 2_000)

    found = {after_power_loss(seed, write) for seed in range(200)}
    whole_a, whole_b = b"a" * 2_000, b"b" * 2_000
    assert {b"", whole_a, whole_a + whole_b, bytes(2_000) + whole_b} <= found
    torn = [content for content in found if content and set(content) == {ord("a")} and len(content) < 2_000]
    assert torn
    assert all(len(content) % SECTOR_BYTES == 0 for content in torn)


def test_a_name_that_was_not_synced_may_vanish():
    """Though the file's content was."""

    def write(files):
        files.write_at(LOG, [b"a"], 0)
        files.sync(LOG)

    assert {after_power_loss(seed, write) for seed in range(50)} == {b"", b"a"}


def test_a_removed_name_that_was_not_synced_may_come_back():
    """Removing, too, is on the disk only once the directory is."""

    def write(files):
        files.write_at(LOG, [b"a"], 0)
        files.sync(LOG)
        files.sync_dir(DIRECTORY)
        files.remove(LOG)

    assert {after_power_loss(seed, write) for seed in range(50)} == {b"", b"a"}


def test_a_synced_replacement_is_the_new_content():
    """Never the old, and never a mixture."""

    def write(files):
        files.replace(LOG, b"old")
        files.replace(LOG, b"new")

    assert {after_power_loss(seed, write) for seed in range(50)} == {b"new"}


def test_a_cut_that_was_not_synced_may_be_undone():
    """What was cut away is there again."""

    def write(files):
        files.write_at(LOG, [b"abcdef"], 0)
        files.sync(LOG)
        files.sync_dir(DIRECTORY)
        files.truncate(LOG, 2)

    assert {after_power_loss(seed, write) for seed in range(50)} == {b"ab", b"abcdef"}


def test_a_kill_loses_nothing():
    """The page cache outlives the process; the dead process can do nothing any more."""
    disk = platter()
    old = disk.files
    old.write_at(LOG, [b"abc"], 0)
    disk.kill()
    assert disk.files.read(LOG) == b"abc"
    with pytest.raises(StorageError):
        old.write_at(LOG, [b"x"], 3)
    assert disk.files.read(LOG) == b"abc"


def test_after_a_failed_sync_the_cache_shows_what_the_disk_has_not():
    """The next sync succeeds and writes nothing of it: that is what kernels do."""
    contents = set()
    for seed in range(30):
        disk = platter(seed)
        disk.files.write_at(LOG, [b"abc"], 0)
        disk.files.sync_dir(DIRECTORY)
        disk.faults = Faults(sync_fails=1.0)
        with pytest.raises(StorageError):
            disk.files.sync(LOG)
        assert disk.unmarked == {DIRECTORY}
        disk.faults = Faults()
        disk.files.sync(LOG)
        assert disk.files.read(LOG) == b"abc"
        disk.lose_power()
        contents.add(disk.files.read(LOG))
    assert contents == {b"", b"abc"}


def test_a_full_disk_takes_nothing_and_keeps_everything():
    """Writes are refused, reads go on."""
    disk = platter()
    disk.files.write_at(LOG, [b"abc"], 0)
    disk.faults = Faults(is_full=True)
    with pytest.raises(DiskFull):
        disk.files.write_at(LOG, [b"d"], 3)
    with pytest.raises(DiskFull):
        disk.files.replace(LOG, b"new")
    assert disk.files.read(LOG) == b"abc"


# --- the atlas ----------------------------------------------------------------------------------------


def batches(count):
    return [
        build(b"x" * 50, count=1, last_offset_delta=0, base_timestamp=1, max_timestamp=1, base_offset=number)
        for number in range(count)
    ]


def test_bits_flip_only_in_a_batch_with_a_whole_one_behind_it():
    """The last batch on the disk can't be told from a torn one, so it is spared; so is what was not synced."""
    hit = set()
    for seed in range(60):
        disk = platter(seed)
        disk.files.write_at(LOG, batches(3), 0)
        disk.files.sync(LOG)
        before = disk.files.read(LOG)
        disk.files.write_at(LOG, batches(4)[3:], len(before))
        damage = damage_log(disk, ("t",), Random(seed))
        assert damage is not None
        assert (damage.topic, damage.partition, damage.first) == ("t", 0, damage.last)
        hit.add(damage.first)
        after = disk.files.read(LOG)[: len(before)]
        changed = [at for at in range(len(before)) if before[at] != after[at]]
        assert len(changed) == 1
        assert changed[0] // (len(before) // 3) == damage.first
        assert (before[changed[0]] ^ after[changed[0]]).bit_count() == 1
    assert hit == {0, 1}


def test_nothing_flips_where_nothing_may():
    """A log of one batch, a log of a topic that was not asked for, no hints."""
    disk = platter()
    disk.files.write_at(LOG, batches(1), 0)
    disk.files.sync(LOG)
    assert damage_log(disk, ("t",), Random(1)) is None
    assert damage_log(disk, ("u",), Random(1)) is None
    assert damage_hint(disk, Random(1)) is None


def test_hints_may_be_hit_anywhere():
    """One bit of an index, and of nothing else."""
    disk = platter()
    disk.files.write_at(LOG, batches(3), 0)
    path = LOG.replace(".log", ".index")
    disk.files.replace(path, bytes(80))
    assert damage_hint(disk, Random(1)) == path
    assert sum(disk.files.read(path)) in {1 << bit for bit in range(8)}


# --- disk threads -------------------------------------------------------------------------------------


async def test_jobs_run_in_turn_and_take_virtual_time(autojump_clock):
    """A job's error is its result; a slow disk takes longer."""
    disk, results = Platter(Random(1)), []

    def fail():
        raise StorageError("broken")

    async with trio.open_nursery() as nursery:
        executor = SimDisk(nursery, disk, Random(1))
        executor.submit([lambda: 1, fail, lambda: 3], results.extend)
    quick = trio.current_time()
    assert results[0] == 1
    assert isinstance(results[1], StorageError)
    assert results[2] == 3
    assert quick > 0
    disk.faults = Faults(slowness=1_000.0)
    async with trio.open_nursery() as nursery:
        SimDisk(nursery, disk, Random(1)).submit([lambda: 1, fail, lambda: 3], results.extend)
    assert trio.current_time() - quick > 100 * quick


async def test_a_job_is_never_abandoned(autojump_clock):
    """Its asker may have been cancelled long ago: threads can't be."""
    results = []
    async with trio.open_nursery() as nursery:
        SimDisk(nursery, Platter(Random(1)), Random(1)).submit([lambda: 1], results.extend)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert results == [1]
