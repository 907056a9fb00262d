"""The real world behind `ports`: this machine's clock, sockets and disk threads.

Always true: nothing here decides anything; whatever the simulator must be able to change is a port.
"""

import errno
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from random import SystemRandom

import trio

from dduomq.errors import DduomqError, ListenError
from dduomq.kernel_sync import KernelSyncs
from dduomq.log.files import RealFiles
from dduomq.ports import Buffer, FileRange, FileSync, Job, Ports

ACCEPT_BACKLOG = 1_024
DISK_THREADS = 4
SENDFILE_SLICE_BYTES = 1024 * 1024
READ_SLICE_BYTES = 256 * 1024
RECEIVES_WITHOUT_WAIT_MAX = 8
_TCP_CONGESTION = getattr(socket, "TCP_CONGESTION", None)


class SystemClock:
    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return trio.current_time()

    def when(self, wall_ms: int) -> float:
        return trio.current_time() + (wall_ms * 1_000_000 - time.time_ns()) / 1e9


class TcpStream:
    """A connected TCP socket. See `dduomq.ports.Stream`."""

    __slots__ = ("_eager", "_socket", "peer")

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock
        self._eager = 0
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            host, port = sock.getpeername()[:2]
            self.peer = f"{host}:{port}"
            if host == sock.getsockname()[0]:
                _send_unpaced(sock)
        except OSError:
            self.peer = "gone"

    async def receive_into(self, view: memoryview) -> int:
        """After a receive that filled its view more is likely here, so the wait is left out."""
        raw: socket.socket = self._socket._sock  # type: ignore[attr-defined]  # no checkpoint wanted here
        if not 0 < self._eager <= RECEIVES_WITHOUT_WAIT_MAX:
            await self._wait(trio.lowlevel.wait_readable)
        while True:
            try:
                received = int(raw.recv_into(view))
            except (BlockingIOError, InterruptedError):
                await self._wait(trio.lowlevel.wait_readable)
                continue
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            self._eager = self._eager + 1 if received == len(view) else 0
            if self._eager > RECEIVES_WITHOUT_WAIT_MAX:
                self._eager = 0
            return received

    async def _wait(self, wait: Callable[[trio.socket.SocketType], object]) -> None:
        try:
            await wait(self._socket)  # type: ignore[misc]  # wait_readable or wait_writable
        except (OSError, trio.ClosedResourceError) as error:
            raise trio.BrokenResourceError(str(error)) from error

    def send_nowait(self, data: Buffer) -> int:
        try:
            return int(self._socket._sock.send(data))  # type: ignore[attr-defined]
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    def send_file_nowait(self, source: FileRange, position: int, size: int) -> int:
        """One slice, so that other tasks run between two of them."""
        out, descriptor = self._socket._sock, source.fileno()  # type: ignore[attr-defined]
        try:
            if descriptor >= 0:
                sent = os.sendfile(out.fileno(), descriptor, position, min(size, SENDFILE_SLICE_BYTES))
            else:
                data = source.read(position, min(size, READ_SLICE_BYTES))
                sent = int(out.send(data)) if data else 0
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error
        if not sent:
            raise trio.BrokenResourceError("the file is shorter than the answer promised")
        return sent

    async def wait_writable(self) -> None:
        await self._wait(trio.lowlevel.wait_writable)

    async def aclose(self) -> None:
        self._socket.close()
        await trio.lowlevel.checkpoint()


def _send_unpaced(sock: trio.socket.SocketType) -> None:
    """Inside one machine there is nothing to pace for, yet BBR, where it is the default, does.

    It doles an answer out, with a timer and a waking of the client for every piece.
    """
    if _TCP_CONGESTION is not None:
        with suppress(OSError):  # the machine's owner does not allow it
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, b"reno")


class TcpListener:
    __slots__ = ("_socket", "host", "port")

    def __init__(self, sock: trio.socket.SocketType, host: str, port: int) -> None:
        self._socket = sock
        self.host = host
        self.port = port

    async def accept(self) -> TcpStream:
        sock, _ = await self._socket.accept()
        return TcpStream(sock)

    async def aclose(self) -> None:
        self._socket.close()
        await trio.lowlevel.checkpoint()


class TcpNetwork:
    """TCP over IPv4 and IPv6."""

    async def listen(self, host: str, port: int) -> TcpListener:
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, proto, _, address = found[0]
            sock = trio.socket.socket(family, kind, proto)
        except OSError as error:
            raise ListenError(f"can't listen on {host}:{port}: {error.strerror or error}") from error
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await sock.bind(address)
            sock.listen(ACCEPT_BACKLOG)
        except OSError as error:
            sock.close()
            raise ListenError(_listen_text(host, port, error)) from error
        return TcpListener(sock, host, sock.getsockname()[1])

    async def dial(self, host: str, port: int) -> TcpStream:
        stream = await trio.open_tcp_stream(host, port)
        return TcpStream(stream.socket)


def _listen_text(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{host}:{port} is taken by another process; stop it, or choose another with --listen HOST:PORT"
    if error.errno == errno.EACCES:
        return f"{host}:{port} needs more rights than this user has; choose a port above 1023 with --listen"
    return f"can't listen on {host}:{port}: {error.strerror}; choose another with --listen HOST:PORT"


class DiskThreads:
    """A few long-lived threads, and the kernel's for syncs. See `dduomq.ports.DiskExecutor`."""

    def __init__(self, threads: int = DISK_THREADS) -> None:
        self.threads = threads
        self.syncs = kernel_syncs()
        self._queue: queue.SimpleQueue[tuple[Sequence[Job], Callable[[list[object]], None]] | None] = (
            queue.SimpleQueue()
        )
        self._token = trio.lowlevel.current_trio_token()
        self._workers = [
            threading.Thread(target=self._work, name=f"dduomq-disk-{number}", daemon=True) for number in range(threads)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, jobs: Sequence[Job], done: Callable[[list[object]], None]) -> None:
        if self.syncs is not None and all(isinstance(job, FileSync) for job in jobs):
            self._sync(self.syncs, jobs, done)
        else:
            self._queue.put((jobs, done))

    def _sync(self, syncs: KernelSyncs, jobs: Sequence[Job], done: Callable[[list[object]], None]) -> None:
        results: list[object] = [None] * len(jobs)
        left = len(jobs)

        def ended(at: int, result: object) -> None:
            nonlocal left
            results[at] = result
            left -= 1
            if not left:
                done(results)

        for at, job in enumerate(jobs):
            assert isinstance(job, FileSync)
            self._sync_one(syncs, job, partial(ended, at))

    def _sync_one(self, syncs: KernelSyncs, job: FileSync, ended: Callable[[object], None]) -> None:
        def in_a_thread(run: Job) -> None:
            self._queue.put(([run], lambda results: ended(results[0])))

        def told(code: int) -> None:
            if not code:
                ended(None)
            else:  # no second try: the kernel has forgotten what it could not write
                in_a_thread(partial(job.failed, os.strerror(code)))

        try:
            file = job.open()
        except (OSError, DduomqError):
            in_a_thread(job.run)
            return
        if not syncs.begin(file, told):
            file.close()
            in_a_thread(job.run)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            jobs, done = item
            results = [_attempt(job) for job in jobs]
            try:
                self._token.run_sync_soon(done, results)
            except trio.RunFinishedError:
                return

    async def aclose(self) -> None:
        if self.syncs is not None:
            await self.syncs.aclose()
        for _ in self._workers:
            self._queue.put(None)
        with trio.CancelScope(shield=True):
            for worker in self._workers:
                await trio.to_thread.run_sync(worker.join)


def kernel_syncs() -> KernelSyncs | None:
    try:
        return KernelSyncs()
    except OSError:  # another kernel, or a sandbox: the threads do it
        return None


def _attempt(job: Job) -> object:
    try:
        return job()
    except Exception as error:  # handed to who asked, as the port says
        return error


def real_ports() -> Ports:
    """The ports of a node that runs for real; to be called inside `trio.run`."""
    return Ports(
        clock=SystemClock(),
        network=TcpNetwork(),
        disk=DiskThreads(),
        rng=SystemRandom(),
        files=RealFiles(),
    )
