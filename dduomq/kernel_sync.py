"""Syncs by the kernel's own workers: a file is brought to the disk without a thread of ours waiting for it.

Linux' asynchronous I/O (io_submit(2), IOCB_CMD_FDSYNC since 4.18) tells of an end by an eventfd: the event loop waits
for it as for a socket. A thread costs four times as much: two of its switches, each with a fight for the interpreter.
Always true: what was begun ends before its file is closed, and its outcome is told once, on the event loop.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Callable

import trio

from dduomq.ports import FileRange

IN_FLIGHT_MAX = 128
_FDSYNC, _TELL_BY_EVENTFD = 3, 1
_CALLS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}  # io_setup, io_destroy, io_submit, io_getevents
_REQUEST = struct.Struct("<QIIHhIQQqQII")  # struct iocb of linux/aio_abi.h, as little-endian machines have it
_EVENT = struct.Struct("<QQqq")  # struct io_event

Told = Callable[[int], None]


class KernelSyncs:
    """To be made, used and closed on the event loop. Raises `OSError` where there is no such thing."""

    def __init__(self) -> None:
        setup, self._destroy_call, self._submit_call, self._events_call = _calls()
        self._call = ctypes.PyDLL(None, use_errno=True).syscall  # they return at once: the interpreter is kept
        self._context = ctypes.c_ulong(0)
        self._check(self._call(setup, IN_FLIGHT_MAX, ctypes.byref(self._context)))
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._request = ctypes.create_string_buffer(_REQUEST.size)
        self._requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))
        self._events = ctypes.create_string_buffer(_EVENT.size * IN_FLIGHT_MAX)
        self._no_time = (ctypes.c_long * 2)(0, 0)
        self._under_way: dict[int, tuple[FileRange, Told]] = {}
        self._next = 0
        self._idle = trio.Event()
        self._ended = trio.Event()
        self._scope = trio.CancelScope()
        self.done = 0
        trio.lowlevel.spawn_system_task(self._listen)

    def _check(self, result: int) -> int:
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    def begin(self, file: FileRange, told: Told) -> bool:
        """Sync that file, close it, and call `told` with 0 or the error's number.

        False, and nothing is done with it, where the kernel takes no more or it is no file of the kernel's.
        """
        if len(self._under_way) >= IN_FLIGHT_MAX or file.fileno() < 0:
            return False
        number = self._next
        _REQUEST.pack_into(
            self._request, 0, number, 0, 0, _FDSYNC, 0, file.fileno(), 0, 0, 0, 0, _TELL_BY_EVENTFD, self._eventfd
        )
        if self._call(self._submit_call, self._context, 1, self._requests) != 1:
            return False
        self._next += 1
        self._under_way[number] = file, told
        return True

    async def _listen(self) -> None:
        with self._scope:
            while True:
                await trio.lowlevel.wait_readable(self._eventfd)
                self._tell()
        self._ended.set()

    def _tell(self) -> None:
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return
        while True:
            count = self._call(
                self._events_call, self._context, 0, IN_FLIGHT_MAX, self._events, self._no_time
            )  # fmt: skip
            for at in range(max(count, 0)):
                number, _, result, _ = _EVENT.unpack_from(self._events, at * _EVENT.size)
                file, told = self._under_way.pop(number)
                file.close()
                self.done += 1
                told(-result)
            if count < IN_FLIGHT_MAX:
                break
        if not self._under_way:
            self._idle.set()

    async def aclose(self) -> None:
        """Wait until nothing is under way any more."""
        with trio.CancelScope(shield=True):
            while self._under_way:
                self._idle = trio.Event()
                await self._idle.wait()
            self._scope.cancel()
            await self._ended.wait()
        self._call(self._destroy_call, self._context)
        os.close(self._eventfd)


def _calls() -> tuple[int, int, int, int]:
    """The numbers of the system calls. Raises `OSError`."""
    calls = _CALLS.get(platform.machine())
    is_known = sys.platform == "linux" and sys.byteorder == "little" and ctypes.sizeof(ctypes.c_void_p) == 8
    if calls is None or not is_known:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return calls
