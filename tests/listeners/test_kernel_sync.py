"""Real files brought to a real disk by the kernel's own workers; where that can't be, by a thread."""

import errno
import os

import pytest
import trio

from dduomq.errors import StorageError
from dduomq.kernel_sync import IN_FLIGHT_MAX, KernelSyncs
from dduomq.log.files import RealFiles
from dduomq.log.plans import FlushPlan
from dduomq.ports import FileSync
from dduomq.system import DiskThreads, kernel_syncs

needs_kernel = pytest.mark.skipif(
    not os.path.exists("/proc/sys/fs/aio-max-nr"), reason="this kernel has no asynchronous I/O"
)


class File:
    """What is synced, and whether it was closed. `descriptor`: of something else than a file on a disk."""

    def __init__(self, path=None, descriptor=None):
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT) if descriptor is None else descriptor
        self.is_closed = False

    def fileno(self):
        return self.descriptor

    def read(self, position, size):
        raise AssertionError

    def close(self):
        assert not self.is_closed
        self.is_closed = True
        if self.descriptor >= 0:
            os.close(self.descriptor)


@pytest.fixture
async def disk():
    disk = DiskThreads(2)
    yield disk
    await disk.aclose()


async def outcome(disk, *jobs):
    """The results, once they are told."""
    told, results = trio.Event(), []

    def done(found):
        results.extend(found)
        told.set()

    disk.submit(jobs, done)
    assert not told.is_set()
    with trio.fail_after(20):
        await told.wait()
    return results


def flush(directory, *names, files=None):
    plan = FlushPlan(str(directory), tuple(f"{directory}/{name}" for name in names), (), 3, 5)
    return plan.job(files or RealFiles())


@needs_kernel
async def test_a_log_is_synced_by_the_kernel(disk, tmp_path):
    (tmp_path / "log").write_bytes(b"x")
    for count in range(1, 6):
        assert await outcome(disk, flush(tmp_path, "log"), flush(tmp_path, "log")) == [None, None]
        assert disk.syncs.done == 2 * count


@needs_kernel
async def test_more_than_the_kernel_takes_at_once(disk, tmp_path):
    (tmp_path / "log").write_bytes(b"x")
    job, told = flush(tmp_path, "log"), []
    with trio.fail_after(60):
        disk.submit([job] * (3 * IN_FLIGHT_MAX), told.extend)
        while not told:  # noqa: ASYNC110  # it is told to nobody else
            await trio.sleep(0.01)
    assert told == [None] * (3 * IN_FLIGHT_MAX)
    assert IN_FLIGHT_MAX <= disk.syncs.done <= 3 * IN_FLIGHT_MAX


async def test_what_is_no_single_file_is_done_by_a_thread(disk, tmp_path):
    for name in ("log", "index"):
        (tmp_path / name).write_bytes(b"x")
    assert await outcome(disk, flush(tmp_path, "log", "index"), lambda: 7) == [None, 7]
    assert await outcome(disk, flush(tmp_path, "log"), lambda: 7) == [None, 7]
    assert disk.syncs is None or disk.syncs.done == 0


async def test_nothing_to_sync_is_done_at_once(disk, tmp_path):
    assert await outcome(disk, flush(tmp_path)) == [None]


async def test_a_file_that_retention_has_removed_is_needed_by_nobody(disk, tmp_path):
    assert await outcome(disk, flush(tmp_path, "log")) == [None]


def job_on(file, log, *, open_error=None):
    """A job on a file that is no usual one: what is done is noted."""

    def open_():
        if open_error is not None:
            raise open_error
        return file

    def failed(reason):
        log.append(reason)
        raise StorageError(reason)

    return FileSync(lambda: log.append("thread"), open_, failed)


@needs_kernel
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
async def test_of_an_error_the_log_is_told_and_it_is_not_tried_again(disk, tmp_path, monkeypatch, code):
    log: list[str] = []
    begin = KernelSyncs.begin
    monkeypatch.setattr(KernelSyncs, "begin", lambda self, file, told: begin(self, file, lambda _code: told(code)))
    (result,) = await outcome(disk, job_on(File(tmp_path / "log"), log))
    assert isinstance(result, StorageError)
    assert log == [os.strerror(code)]


@needs_kernel
async def test_the_log_s_directory_says_so_for_whoever_opens_it_next(disk, tmp_path, monkeypatch):
    begin = KernelSyncs.begin
    monkeypatch.setattr(KernelSyncs, "begin", lambda self, file, told: begin(self, file, lambda _code: told(errno.EIO)))
    (tmp_path / "log").write_bytes(b"x")
    (result,) = await outcome(disk, flush(tmp_path, "log"))
    assert isinstance(result, StorageError)
    assert "Input/output error" in result.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "offline"]


async def test_no_file_of_the_kernel_s_or_none_at_all(disk):
    log: list[str] = []
    for descriptor in (-1, os.memfd_create("no disk"), os.open("/dev/full", os.O_WRONLY)):
        file = File(descriptor=descriptor)
        assert await outcome(disk, job_on(file, log)) == [None]
        assert file.is_closed
    assert log[-1] == "thread"
    log.clear()
    assert await outcome(disk, job_on(None, log, open_error=FileNotFoundError())) == [None]
    assert log == ["thread"]


async def test_a_kernel_without_it(tmp_path, monkeypatch):
    def refuse(self):
        raise OSError(errno.ENOSYS, "no")

    monkeypatch.setattr(KernelSyncs, "__init__", refuse)
    assert kernel_syncs() is None
    disk = DiskThreads(1)
    (tmp_path / "log").write_bytes(b"x")
    assert await outcome(disk, flush(tmp_path, "log")) == [None]
    await disk.aclose()


@needs_kernel
async def test_closing_waits_for_what_was_begun(tmp_path):
    (tmp_path / "log").write_bytes(b"x")
    told: list[object] = []
    disk = DiskThreads(1)
    for _ in range(20):
        disk.submit([flush(tmp_path, "log")], told.extend)
    await disk.aclose()
    assert told == [None] * 20
