"""Frames: cut wherever the bytes end; whatever becomes of a connection, the byte budget gets everything back."""

import pytest
import trio

from dduomq.errors import FrameTooLarge, WireError
from dduomq.listeners.buffers import Buffers
from dduomq.listeners.connection import NEVER, Connection
from dduomq.listeners.frames import KAFKA, NATIVE, Frame, FrameCutter, FrameReader

BUDGET = 1_000_000
FRAME_MAX = 200_000


class Pieces:
    """A stream that gives what it was given, piece by piece, then ends or breaks."""

    peer = "test"

    def __init__(self, pieces: list[bytes], *, breaks: bool = False) -> None:
        self.pieces = pieces
        self.breaks = breaks

    async def receive_into(self, view: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        if not self.pieces:
            if self.breaks:
                raise trio.BrokenResourceError
            return 0
        piece = self.pieces.pop(0)
        taken = min(len(piece), len(view))
        view[:taken] = piece[:taken]
        if taken < len(piece):
            self.pieces.insert(0, piece[taken:])
        return taken


def kafka(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def native(header: bytes, payload: bytes) -> bytes:
    return (4 + len(header) + len(payload)).to_bytes(4, "big") + len(header).to_bytes(4, "big") + header + payload


class Reading:
    """A reader over pieces, with a handler that keeps what it is given."""

    def __init__(self, framing, pieces, *, fails_at=None, releases=True, breaks=False):
        self.buffers = Buffers(BUDGET)
        self.connection = Connection(Pieces(pieces, breaks=breaks), 0.0)
        self.seen: list[tuple[bytes, bytes]] = []
        self.kept: list[Frame] = []
        self._fails_at = fails_at
        self._releases = releases
        cutter = FrameCutter(framing, FRAME_MAX, self.buffers)
        self.reader = FrameReader(self.connection, bytearray(4096), cutter, self._handle)

    async def _handle(self, frame: Frame) -> None:
        if len(self.seen) == self._fails_at:
            raise WireError("nonsense")
        self.seen.append((frame.header, bytes(frame.payload)))
        if self._releases:
            frame.release(recycle=True)
        else:
            self.kept.append(frame)


@pytest.mark.parametrize("step", [1, 3, 7, 64, 5_000])
async def test_frames_are_the_same_wherever_the_bytes_are_cut(step):
    """One byte at a time, in the middle of a length, many frames at once."""
    payloads = [bytes([at]) * size for at, size in enumerate((10, 5_000, 11, 70_000, 12))]
    for framing, data, expected in (
        (KAFKA, b"".join(map(kafka, payloads)), [(b"", payload) for payload in payloads]),
        (NATIVE, b"".join(native(b"h" * 5, p) for p in payloads), [(b"h" * 5, payload) for payload in payloads]),
    ):
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        reading = Reading(framing, pieces)
        await reading.reader.run(b"")
        assert reading.seen == expected
        assert reading.buffers.in_use == 0


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_frame_that_never_ends_gives_its_budget_back(breaks):
    """A thousand clients that announce much and go must not use the budget up."""
    reading = Reading(KAFKA, [kafka(b"x" * 10), (100_000).to_bytes(4, "big") + b"begun"], breaks=breaks)
    if breaks:
        with pytest.raises(trio.BrokenResourceError):
            await reading.reader.run(b"")
    else:
        await reading.reader.run(b"")
    assert len(reading.seen) == 1
    assert reading.buffers.in_use == 0


@pytest.mark.parametrize("fails_at", [0, 1, 2])
async def test_what_a_handler_breaks_down_over_is_released(fails_at):
    """The frame itself, and those behind it that had been cut already."""
    reading = Reading(KAFKA, [b"".join(kafka(b"y" * 20) for _ in range(4))], fails_at=fails_at)
    with pytest.raises(WireError):
        await reading.reader.run(b"")
    assert len(reading.seen) == fails_at
    assert reading.buffers.in_use == 0


async def test_what_came_before_nonsense_is_handled():
    """Good requests count, though the next length is absurd."""
    reading = Reading(KAFKA, [kafka(b"y" * 20) + b"\x7f\xff\xff\xff" + b"rest"])
    with pytest.raises(FrameTooLarge):
        await reading.reader.run(b"")
    assert len(reading.seen) == 1
    assert reading.buffers.in_use == 0


@pytest.mark.parametrize("length", [-1, 0, 9])
async def test_impossible_lengths_are_refused(length):
    """Kafka's requests have a header at least."""
    with pytest.raises(WireError):
        await Reading(KAFKA, [length.to_bytes(4, "big", signed=True) + b"z" * 20]).reader.run(b"")


async def test_a_full_budget_makes_readers_wait_not_fail(autojump_clock):
    """The frames go on as soon as others are answered."""
    size = 150_000
    reading = Reading(KAFKA, [b"".join(kafka(bytes(size)) for _ in range(10))], releases=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reading.reader.run, b"")
        await trio.sleep(1)
        assert len(reading.seen) == BUDGET // size
        for frame in reading.kept:
            frame.release()
            frame.release()  # once is once
        await trio.sleep(1)
        assert len(reading.seen) == 10
    assert reading.buffers.in_use == (10 - BUDGET // size) * size


class Watched(Connection):
    """Notes what the sweeper would see before each receive."""

    __slots__ = ("due",)

    async def receive_into(self, view: memoryview) -> int:
        self.due.append(self.frame_due)
        return await super().receive_into(view)


async def test_a_frame_in_progress_has_a_time_to_be_whole():
    """Between frames there is none."""
    data = kafka(b"x" * 100_000)
    reading = Reading(KAFKA, [])
    watched = Watched(Pieces([data[:50_000], data[50_000:], kafka(b"y" * 10)]), 0.0)
    watched.due = []
    reader = FrameReader(watched, bytearray(4096), FrameCutter(KAFKA, FRAME_MAX, reading.buffers), reading._handle)
    await reader.run(b"")
    first, *inside, last = watched.due
    assert first == last == NEVER
    assert all(due < NEVER for due in inside[:2])
    assert len(reading.seen) == 2
