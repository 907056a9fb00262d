"""The simulated network: byte streams in memory, with delay and back-pressure, that break when a node dies.

`SimNetwork` itself is one machine's, where ports are numbers and hosts are not looked at. `at(name)` is the network as
one machine of several sees it: it listens under its own name only, and the way between two machines can be cut, in one
direction or both. What is sent over a cut way is held back, as TCP would send it again, and arrives when the way is
mended, if the connection still stands; nobody learns over a cut way that the other side is gone; dialling waits.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeAlias

import attrs
import trio

from dduomq.client.conn import Transport
from dduomq.errors import ListenError
from dduomq.ports import Buffer, FileRange

PIPE_BYTES = 64 * 1024
DELAY_S = (0.0001, 0.003)
FIRST_PORT = 40_000
CLIENT = "client"  # where those dial from that are on no machine of the simulation
Way: TypeAlias = tuple[str, str]  # from, to


class Pipe:
    """One direction of a connection."""

    def __init__(self, rng: Random, way: Way = ("", "")) -> None:
        self._rng = rng
        self._data = bytearray()
        self._changed = trio.Event()
        self.way = way
        self.is_cut = False
        self.is_ended = False
        self.is_broken = False

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def put_nowait(self, data: Buffer) -> int:
        if self.is_ended or (self.is_broken and not self.is_cut):
            raise trio.BrokenResourceError("the other side is gone")
        size = min(len(data), PIPE_BYTES - len(self._data))
        self._data += memoryview(data)[:size]
        self._change()
        return size

    async def put(self, data: Buffer) -> None:
        view = memoryview(data)
        while len(view):
            sent = self.put_nowait(view)
            view = view[sent:]
            if len(view):
                await self.wait_changed()

    async def wait_changed(self) -> None:
        await self._changed.wait()

    async def get(self, size_max: int) -> bytes:
        """b"" at the end."""
        await trio.sleep(self._rng.uniform(*DELAY_S))
        while self.is_cut or not (self._data or self.is_ended or self.is_broken):
            await self._changed.wait()
        if self.is_broken:
            raise trio.BrokenResourceError("the other side is gone")
        size = min(size_max, len(self._data), self._rng.randrange(1, PIPE_BYTES))
        data = bytes(self._data[:size])
        del self._data[:size]
        self._change()
        return data

    def end(self) -> None:
        self.is_ended = True
        self._change()

    def cut(self, *, is_cut: bool) -> None:
        self.is_cut = is_cut
        self._change()

    def break_off(self) -> None:
        self.is_broken = True
        self._data.clear()
        self._change()


class SimStream:
    """A `dduomq.ports.Stream`, and the client's `Transport`."""

    def __init__(self, incoming: Pipe, outgoing: Pipe, peer: str) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.peer = peer

    async def receive_into(self, view: memoryview) -> int:
        data = await self._incoming.get(len(view))
        view[: len(data)] = data
        return len(data)

    def send_nowait(self, data: Buffer) -> int:
        return self._outgoing.put_nowait(data)

    async def send_all(self, chunks: Sequence[Buffer]) -> None:
        for chunk in chunks:
            await self._outgoing.put(chunk)

    def send_file_nowait(self, source: FileRange, position: int, size: int) -> int:
        data = source.read(position, min(size, PIPE_BYTES))
        if not data:
            raise trio.BrokenResourceError("the file is shorter than the answer promised")
        return self._outgoing.put_nowait(data)

    async def wait_writable(self) -> None:
        await self._outgoing.wait_changed()

    async def aclose(self) -> None:
        self._incoming.end()
        self._outgoing.end()

    @property
    def pipes(self) -> tuple[Pipe, Pipe]:
        return self._incoming, self._outgoing

    @property
    def is_cut(self) -> bool:
        """Whether one of its directions is."""
        return self._incoming.is_cut or self._outgoing.is_cut

    @property
    def is_over(self) -> bool:
        return self._outgoing.is_ended or self._outgoing.is_broken

    def break_off(self) -> None:
        self._incoming.break_off()
        self._outgoing.break_off()


class SimTransport:
    """A stream as the client wants it: a broken one is an OSError."""

    def __init__(self, stream: SimStream) -> None:
        self._stream = stream

    async def send(self, data: bytes) -> None:
        try:
            await self._stream.send_all([data])
        except trio.BrokenResourceError as error:
            raise ConnectionResetError(str(error)) from error

    async def receive(self, max_bytes: int) -> bytes:
        buffer = bytearray(min(max_bytes, PIPE_BYTES))
        try:
            return bytes(buffer[: await self._stream.receive_into(memoryview(buffer))])
        except trio.BrokenResourceError as error:
            raise ConnectionResetError(str(error)) from error

    async def aclose(self) -> None:
        await self._stream.aclose()


class SimListener:
    def __init__(self, network: "SimNetwork", host: str, port: int, machine: str = "") -> None:
        self.host = host
        self.port = port
        self._place = (machine, port)
        self._network = network
        self.send, self._receive = trio.open_memory_channel[SimStream](1024)

    async def accept(self) -> SimStream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        self._network.listeners.pop(self._place, None)


class SimNetwork:
    """All connections of a simulation. See the file's head."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._pairs: list[tuple[SimStream, SimStream]] = []
        self._dialled = 0
        self._cuts: dict[Way, None] = {}
        self._mended = trio.Event()
        self.listeners: dict[tuple[str, int], SimListener] = {}

    def at(self, name: str) -> "SimMachine":
        """The network as the machine of that name sees it."""
        return SimMachine(self, name)

    async def listen(self, host: str, port: int) -> SimListener:
        return self.listen_at("", host, port)

    def listen_at(self, machine: str, host: str, port: int) -> SimListener:
        number = port or FIRST_PORT + len(self.listeners)
        if (machine, number) in self.listeners:
            raise ListenError(f"{host}:{number} is taken")
        self.listeners[machine, number] = SimListener(self, host, number, machine)
        return self.listeners[machine, number]

    async def dial(self, host: str, port: int) -> SimStream:
        return await self.dial_from(CLIENT, host, port)

    async def dial_from(self, machine: str, host: str, port: int) -> SimStream:
        await trio.sleep(self._rng.uniform(*DELAY_S))
        while (machine, host) in self._cuts or (host, machine) in self._cuts:
            await self._mended.wait()
        listener = self.listeners.get((host, port)) or self.listeners.get(("", port))
        if listener is None:
            raise ConnectionRefusedError(f"nobody listens at {host}:{port}")
        self._dialled += 1
        there, back = Pipe(self._rng, (machine, host)), Pipe(self._rng, (host, machine))
        ours, theirs = SimStream(back, there, "node"), SimStream(there, back, f"client-{self._dialled}")
        self._pairs = [pair for pair in self._pairs if not pair[0].is_over or pair[0].is_cut]
        self._pairs.append((ours, theirs))
        await listener.send.send(theirs)
        return ours

    async def dial_client(self, host: str, port: int) -> Transport:
        """`dial`, as the client wants it."""
        return SimTransport(await self.dial(host, port))

    # --- faults -------------------------------------------------------------------------------------

    def cut(self, source: str, target: str, *, both: bool = True) -> None:
        """Nothing gets from one machine to the other any more; with `both` not the other way either."""
        self._cuts[source, target] = None
        if both:
            self._cuts[target, source] = None
        self._apply_cuts()

    def isolate(self, machine: str, others: Sequence[str]) -> None:
        """Cut every way between one machine and these."""
        for other in others:
            self.cut(machine, other)

    def mend(self, source: str, target: str) -> None:
        """What was held back between the two goes on its way, in both directions."""
        self._cuts.pop((source, target), None)
        self._cuts.pop((target, source), None)
        self._apply_cuts()

    def mend_all(self) -> None:
        self._cuts.clear()
        self._apply_cuts()

    def _apply_cuts(self) -> None:
        for pipe in (pipe for pair in self._pairs for pipe in pair[0].pipes):
            if pipe.is_cut != (pipe.way in self._cuts):
                pipe.cut(is_cut=not pipe.is_cut)
        self._mended.set()
        self._mended = trio.Event()

    def break_one(self) -> None:
        """One client's connection breaks, with whatever is under way on it, while the node lives on."""
        live = [pair for pair in self._pairs if not pair[0].is_over]
        if live:
            for stream in live[self._rng.randrange(len(live))]:
                stream.break_off()

    def crash(self) -> None:
        """The node is gone: its connections break, nobody listens any more."""
        for stream in (stream for pair in self._pairs for stream in pair):
            stream.break_off()
        self._pairs.clear()
        self.listeners.clear()

    def crash_machine(self, machine: str) -> None:
        """One machine is gone; the others live on. Whoever is cut off from it learns of it when the way is mended."""
        gone = [pair for pair in self._pairs if machine in pair[0].pipes[0].way]
        self._pairs = [pair for pair in self._pairs if pair not in gone]
        for pair in gone:
            pair[0].break_off()
        self._pairs += [pair for pair in gone if pair[0].is_cut]
        for place in [place for place in self.listeners if place[0] == machine]:
            del self.listeners[place]


@attrs.frozen
class SimMachine:
    """A `dduomq.ports.Network`: what one machine has of it."""

    network: SimNetwork
    name: str

    async def listen(self, host: str, port: int) -> SimListener:
        return self.network.listen_at(self.name, host, port)

    async def dial(self, host: str, port: int) -> SimStream:
        return await self.network.dial_from(self.name, host, port)

    async def dial_client(self, host: str, port: int) -> Transport:
        """`dial`, as the client wants it."""
        return SimTransport(await self.dial(host, port))

    def crash(self) -> None:
        """See `SimNetwork.crash_machine`."""
        self.network.crash_machine(self.name)
