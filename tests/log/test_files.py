"""The one door to the disk, real and in memory: the same answers from both, and no descriptor leaks."""

import errno
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dduomq.errors import DataDirError, DiskFull, StorageError
from dduomq.log import files as files_module
from dduomq.log.files import RealFiles
from dduomq.log.memory import MemoryFiles


@pytest.fixture(params=["real", "memory"])
def disk(request, tmp_path):
    """(files, an existing directory on them), once for each kind."""
    files = RealFiles() if request.param == "real" else MemoryFiles()
    root = str(tmp_path / "root")
    files.make_dir(root)
    return files, root


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


# --- what both kinds promise --------------------------------------------------------------------------


def test_what_was_written_is_read(disk):
    """Many buffers at one place, then more behind them."""
    files, root = disk
    path = f"{root}/a.log"
    files.write_at(path, [b"one", bytearray(b"two"), memoryview(b"three")], 0)
    files.write_at(path, [b"!"], 11)
    files.sync(path)
    assert files.read(path) == b"onetwothree!"
    assert files.read_at(path, 3, 3) == b"two"
    assert files.size(path) == 12


def test_a_read_is_short_at_the_end(disk):
    """Fewer bytes than asked for, and none behind the end."""
    files, root = disk
    files.write_at(f"{root}/a", [b"abc"], 0)
    assert files.read_at(f"{root}/a", 2, 10) == b"c"
    assert files.read_at(f"{root}/a", 7, 10) == b""


def test_calm_reading_gives_the_same(disk):
    """Nothing ahead of what is asked for; and no descriptor stays."""
    files, root = disk
    files.write_at(f"{root}/a", [b"abcdef"], 0)
    calm, descriptors, view = files.calm(), open_descriptors(), bytearray(4)
    assert calm.read_at(f"{root}/a", 4, 10) == b"ef"
    assert calm.read_into(f"{root}/a", 1, memoryview(view)) == 4
    assert bytes(view) == b"bcde"
    assert calm.read_into(f"{root}/a", 6, memoryview(view)) == 0
    with pytest.raises(FileNotFoundError):
        calm.read_at(f"{root}/none", 0, 1)
    assert open_descriptors() == descriptors


def test_calm_reading_says_what_the_disk_says(tmp_path, monkeypatch):
    files, path = RealFiles(), str(tmp_path / "a")
    files.write_at(path, [b"abc"], 0)

    def fail(*_arguments):
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(StorageError, match="bad sector"):
        files.calm().read_at(path, 0, 1)


def test_reserved_space_does_not_change_the_size(disk):
    """The size of a file is the end of what was written, so that every reader stops there."""
    files, root = disk
    files.write_at(f"{root}/a", [b"abc"], 0, reserve_to=1 << 20)
    assert files.size(f"{root}/a") == 3


def test_more_buffers_than_one_system_call_takes(disk):
    """Nothing is lost where a write must be made in several goes."""
    files, root = disk
    files.write_at(f"{root}/a", [bytes([number % 256]) * 3 for number in range(5_000)], 0)
    assert files.read(f"{root}/a") == b"".join(bytes([number % 256]) * 3 for number in range(5_000))


@given(st.integers(0, 200), st.lists(st.binary(max_size=150), max_size=12), st.integers(1, 70))
def test_a_large_write_goes_slice_by_slice(begin, buffers, taken):
    """None is larger than a slice or crosses the border of one; all is there, also when a call takes only a part."""
    written, slices = bytearray(1_000_000), []

    def pwritev(descriptor, views, position):
        data = b"".join(views)[:taken]
        slices.append((position, sum(map(len, views))))
        written[position : position + len(data)] = data
        return len(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files_module, "WRITE_SLICE_BYTES", 64)
        patch.setattr(files_module.os, "pwritev", pwritev)
        files_module._write_all(3, buffers, begin)
    size = sum(map(len, buffers))
    assert written[begin : begin + size] == b"".join(buffers)
    assert not any(written[:begin])
    assert not any(written[begin + size :])
    assert all(position % 64 + length <= 64 and length for position, length in slices)


@pytest.mark.parametrize("call", ["read", "size", "sync", "lease", "truncate"])
def test_a_missing_file_is_said_to_be_missing(disk, call):
    """`FileNotFoundError`, or for a sync a `StorageError`; nothing is made by looking."""
    files, root = disk
    arguments = [0] if call == "truncate" else []
    with pytest.raises((FileNotFoundError, StorageError)):
        getattr(files, call)(f"{root}/none", *arguments)
    assert not files.exists(f"{root}/none")


def test_names_are_listed_in_order(disk):
    """Files and directories, sorted, of that directory only."""
    files, root = disk
    files.make_dir(f"{root}/deep/er")
    for name in ("b", "a", "deep/c"):
        files.write_at(f"{root}/{name}", [b"x"], 0)
    assert files.list(root) == ["a", "b", "deep"]
    assert files.list(f"{root}/deep") == ["c", "er"]
    with pytest.raises(FileNotFoundError):
        files.list(f"{root}/none")


def test_replacing_changes_the_whole_file(disk):
    """The old content is gone, however long it was; no temporary file is left."""
    files, root = disk
    files.write_at(f"{root}/a", [b"a long old content"], 0)
    assert files.read_at(f"{root}/a", 0, 6) == b"a long"
    files.replace(f"{root}/a", b"new")
    assert files.read(f"{root}/a") == files.read_at(f"{root}/a", 0, 100) == b"new"
    assert files.list(root) == ["a"]


def test_cutting_and_growing(disk):
    """A cut file ends there; a grown one has zeros."""
    files, root = disk
    files.write_at(f"{root}/a", [b"abcdef"], 0)
    files.truncate(f"{root}/a", 2)
    assert files.read(f"{root}/a") == b"ab"
    files.truncate(f"{root}/a", 4)
    assert files.read(f"{root}/a") == b"ab\0\0"


def test_a_renamed_directory_takes_its_files_along(disk):
    """Also those that were open: the old path is gone, the new one has the content."""
    files, root = disk
    files.make_dir(f"{root}/t-0")
    files.write_at(f"{root}/t-0/a", [b"x"], 0)
    files.rename(f"{root}/t-0", f"{root}/t-0.deleted")
    assert files.list(root) == ["t-0.deleted"]
    assert files.read_at(f"{root}/t-0.deleted/a", 0, 9) == b"x"
    with pytest.raises(FileNotFoundError):
        files.read_at(f"{root}/t-0/a", 0, 9)


def test_removing_is_done_once_or_twice(disk):
    """A file that is not there is fine; a tree goes with all that is in it."""
    files, root = disk
    files.make_dir(f"{root}/t/u")
    files.write_at(f"{root}/t/u/a", [b"x"], 0)
    files.write_at(f"{root}/b", [b"x"], 0)
    files.remove(f"{root}/b")
    files.remove(f"{root}/b")
    files.remove_tree(f"{root}/t")
    assert files.list(root) == []


def test_a_lease_outlives_the_name(disk):
    """Who reads goes on reading what was removed meanwhile."""
    files, root = disk
    files.write_at(f"{root}/a", [b"abcdef"], 0)
    lease = files.lease(f"{root}/a")
    files.remove(f"{root}/a")
    assert lease.read(2, 3) == b"cde"
    assert lease.is_resident(0, 6)
    lease.close()
    lease.close()


def test_a_lock_is_held_by_one(disk):
    """The second is refused until the first lets go."""
    files, root = disk
    lock = files.lock(f"{root}/lock")
    with pytest.raises(DataDirError, match="in use"):
        files.lock(f"{root}/lock")
    lock.close()
    files.lock(f"{root}/lock").close()


def test_there_is_space(disk):
    """Some bytes are free."""
    files, root = disk
    assert files.free_bytes(root) > 0


# --- descriptors --------------------------------------------------------------------------------------


def test_open_descriptors_are_bounded(tmp_path):
    """Two hundred files through an LRU of eight: eight stay open, none once they are forgotten."""
    files, before = RealFiles(open_max=8), open_descriptors()
    paths = [str(tmp_path / f"{number}") for number in range(200)]
    for path in paths:
        files.write_at(path, [b"x"], 0)
    assert open_descriptors() == before + 8
    for path in paths:
        files.forget(path)
    assert open_descriptors() == before


def test_a_leased_file_stays_open_when_others_push_it_out(tmp_path):
    """It is closed when its last reader is done."""
    files, before = RealFiles(open_max=2), open_descriptors()
    files.write_at(str(tmp_path / "read"), [b"abc"], 0)
    lease = files.lease(str(tmp_path / "read"))
    for number in range(10):
        files.write_at(str(tmp_path / f"{number}"), [b"x"], 0)
    assert lease.read(0, 3) == b"abc"
    assert open_descriptors() == before + 3
    lease.close()
    assert open_descriptors() == before + 2


def test_many_threads_share_the_descriptors(tmp_path):
    """Nobody ever writes into or reads from another's file, however much the LRU turns over."""
    files, before, wrong = RealFiles(open_max=4), open_descriptors(), []

    def work(number):
        content = bytes([number]) * 16
        path = str(tmp_path / f"{number}")
        for turn in range(200):
            files.write_at(path, [content], turn * 16)
            lease = files.lease(path)
            if lease.read(turn * 16, 16) != content:
                wrong.append(number)
            lease.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert open_descriptors() <= before + 4


# --- failures -----------------------------------------------------------------------------------------


class FailingWrites:
    """`os.pwritev` that writes a part, then fails."""

    def __init__(self, code, part):
        self._code = code
        self._part = part
        self._real = os.pwritev

    def __call__(self, descriptor, buffers, position):
        if not self._part:
            raise OSError(self._code, os.strerror(self._code))
        part, self._part = self._part, 0
        return self._real(descriptor, [bytes(buffers[0])[:part]], position)


@pytest.mark.parametrize(
    ("code", "error"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EFBIG, DiskFull), (errno.EIO, StorageError)],
)
@pytest.mark.parametrize("part", [0, 3])
def test_a_failed_write_is_cut_back(tmp_path, monkeypatch, code, error, part):
    """Whatever part of it was written, the file ends where it ended before."""
    files, path = RealFiles(), str(tmp_path / "a")
    files.write_at(path, [b"before"], 0)
    monkeypatch.setattr(os, "pwritev", FailingWrites(code, part))
    with pytest.raises(error):
        files.write_at(path, [b"more and more"], 6)
    assert files.read(path) == b"before"


def test_short_writes_are_continued(tmp_path, monkeypatch):
    """The system may take a part of what it is given, as often as it likes, in the middle of a buffer too."""
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, views, at: real(fd, [b"".join(map(bytes, views))[:5]], at))
    files, path = RealFiles(), str(tmp_path / "a")
    files.write_at(path, [b"abc", b"defghij", b"", b"klmnopqrst"], 0)
    assert files.read(path) == b"abcdefghijklmnopqrst"


def test_a_failed_sync_is_a_storage_error(tmp_path, monkeypatch):
    """With the path and the system's reason."""

    def fail(_descriptor):
        raise OSError(errno.EIO, "Input/output error")

    files, path = RealFiles(), str(tmp_path / "a")
    files.write_at(path, [b"x"], 0)
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StorageError, match=r"a failed: Input/output error"):
        files.sync(path)


def test_a_replacement_that_fails_leaves_the_old_content(tmp_path, monkeypatch):
    """Readers see the old or the new, never a mixture."""

    def fail(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    files, path = RealFiles(), str(tmp_path / "a")
    files.replace(path, b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskFull):
        files.replace(path, b"new")
    assert files.read(path) == b"old"


def test_without_fallocate_files_simply_grow(tmp_path, monkeypatch):
    """Reserving is a help, not a need."""
    monkeypatch.setattr("dduomq.log.files._fallocate", None)
    files, path = RealFiles(), str(tmp_path / "a")
    files.write_at(path, [b"abc"], 0, reserve_to=1 << 20)
    assert files.read(path) == b"abc"
