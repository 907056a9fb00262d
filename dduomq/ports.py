"""The doors to the world: time, network, disk threads, chance.

Always true: above layer 2 nothing reaches the world but through these four. `dduomq/system.py` has the real
ones, `dduomq/testing` the simulated ones; a node can't tell which it was given.
"""

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Protocol, TypeAlias

import attrs

Buffer: TypeAlias = bytes | bytearray | memoryview
Job: TypeAlias = Callable[[], object]
Rng: TypeAlias = Random


class Clock(Protocol):
    """Wall time for record and due times, monotonic time for every deadline."""

    def wall_ms(self) -> int: ...

    def monotonic(self) -> float: ...

    def when(self, wall_ms: int) -> float:
        """The monotonic time at which the wall clock, if nobody sets it, shows that."""


class FileRange(Protocol):
    """An open file that a stream may send from; see `dduomq.log.files.Lease`."""

    def fileno(self) -> int:
        """The descriptor for sendfile, or -1 where there is none (memory, simulation)."""

    def read(self, position: int, size: int) -> bytes: ...

    def close(self) -> None: ...


class Stream(Protocol):
    """One connection. All sends are made by one task at a time, all receives by one task at a time."""

    peer: str

    async def receive_into(self, view: memoryview) -> int:
        """Wait for bytes and put them into `view`; their number, 0 at the end of the stream.

        Raises `trio.BrokenResourceError` when the other side is gone.
        """

    def send_nowait(self, data: Buffer) -> int:
        """Send what fits without waiting; how many bytes went (0 if none)."""

    def send_file_nowait(self, source: FileRange, position: int, size: int) -> int:
        """The same with a range of a file that is resident. Raises `trio.BrokenResourceError` if the file is short."""

    async def wait_writable(self) -> None:
        """Wait until more fits; raises `trio.BrokenResourceError`."""

    async def aclose(self) -> None: ...


StreamHandler: TypeAlias = Callable[[Stream], Awaitable[None]]


class Listener(Protocol):
    host: str
    port: int

    async def accept(self) -> Stream: ...

    async def aclose(self) -> None: ...


class Network(Protocol):
    async def listen(self, host: str, port: int) -> Listener:
        """Raises `ListenError` with what to do when the address can't be had."""

    async def dial(self, host: str, port: int) -> Stream:
        """Raises `OSError` when nobody answers."""


@attrs.frozen
class FileSync:
    """A job that brings a file to the disk and does nothing else: an executor may know a shorter way than a thread.

    That is to sync what `open()` gives; if it fails, the data may be lost, and the job is `failed(reason)`. Should
    `open()` raise, or there be no such way, the job is done as any other.
    """

    run: Job
    open: Callable[[], FileRange]
    failed: Callable[[str], object]

    def __call__(self) -> object:
        return self.run()


class DiskExecutor(Protocol):
    """A few long-lived threads for what waits on the disk."""

    threads: int

    def submit(self, jobs: Sequence[Job], done: Callable[[list[object]], None]) -> None:
        """Run `jobs` one after another in one thread, never abandoned.

        Then `done(results)` on the event loop; a job that raised has its exception as its result.
        """

    async def aclose(self) -> None:
        """Wait until everything submitted has run."""


@attrs.frozen
class Ports:
    """Everything a node needs from the world. `files` is a `dduomq.log.files.Files`."""

    clock: Clock
    network: Network
    disk: DiskExecutor
    rng: Rng
    files: object
