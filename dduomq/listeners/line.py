"""The line protocol, for people with netcat.

    SEND:topic text            -> OK topic-2 offset 17
    CONSUME:topic group        -> the topic's records, one a line, from where the group stopped; Ctrl-C ends it
    HELP, QUIT

Always true: whatever is typed gets one line back, beginning with OK or ERROR; the connection stays usable
unless a line is too long. A group's place is kept when its records have been sent to the socket.
"""

from contextlib import suppress

import trio

from dduomq.actors.actor import Reply
from dduomq.actors.nursery import open_flat_nursery
from dduomq.actors.partition_messages import (
    EARLIEST,
    Acked,
    Append,
    Fetch,
    FetchPlan,
    FindOffset,
    OffsetAt,
    Watcher,
)
from dduomq.errors import DduomqError, InvalidRequest, NodeStopping
from dduomq.limits import DECOMPRESSED_BYTES_MAX, LINE_BYTES_MAX
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.connection import Connection
from dduomq.listeners.fetch import make_resident
from dduomq.listeners.services import Services
from dduomq.log.plog import PendingBatch
from dduomq.wire import records
from dduomq.wire.batch import iter_headers, read_header

WORDS = (b"SEND", b"CONSUME", b"HELP", b"QUIT", b"send", b"consume", b"help", b"quit")
HELP = "OK SEND:topic text | CONSUME:topic group | HELP | QUIT"
FETCH_BYTES = 256 * 1024
TIMEOUT_S = 30


class LineSession:
    """One connection that speaks in lines."""

    def __init__(self, connection: Connection, services: Services, listener: str) -> None:
        self._connection = connection
        self._services = services
        self._context = Context("anonymous", "line", listener, connection.peer)
        self._next = 0

    async def run(self, first: bytes) -> None:
        """Serve until the client goes or says QUIT."""
        held = bytearray(first)
        view = memoryview(bytearray(4096))
        while True:
            while (end := held.find(b"\n")) >= 0:
                line = bytes(held[:end]).rstrip(b"\r")
                del held[: end + 1]
                if not await self._obey(line):
                    return
            if len(held) > LINE_BYTES_MAX:
                self._say(f"ERROR a line has at most {LINE_BYTES_MAX} bytes; good-bye")
                return
            received = await self._connection.receive_into(view)
            if not received:
                return
            held += view[:received]

    def _say(self, line: str) -> None:
        self._connection.send(line.encode() + b"\n")

    async def _obey(self, line: bytes) -> bool:
        """Carry out one line; False when the connection is to end."""
        try:
            text = line.decode()
        except UnicodeDecodeError:
            self._say("ERROR lines are UTF-8 text")
            return True
        word, _, rest = text.partition(":")
        try:
            match word.strip().upper():
                case "SEND":
                    await self._send(rest)
                case "CONSUME":
                    await self._consume(rest)
                    return False
                case "QUIT":
                    self._say("OK good-bye")
                    return False
                case "HELP" | "":
                    self._say(HELP)
                case _:
                    self._say(f"ERROR {word[:20]!r} is not known here; HELP lists what is")
        except DduomqError as error:
            self._say(f"ERROR {error.message}")
        return True

    async def _partitions(self, topic: str) -> int:
        if topic not in self._services.routes.table:
            self._services.gate.admit(self._context, Operation.CREATE, topic)
            await self._services.admin.create_on_use(topic)
        return len(self._services.admin.route(topic).partitions)

    # --- SEND ---------------------------------------------------------------------------------------

    async def _send(self, rest: str) -> None:
        topic, space, text = rest.strip().partition(" ")
        if not topic or not space:
            raise InvalidRequest("write it so: SEND:topic text")
        services = self._services
        services.gate.admit(self._context, Operation.WRITE, topic)
        count = await self._partitions(topic)
        partition = self._next % count
        self._next += 1
        view = memoryview(records.encode_one(text.encode(), timestamp_ms=services.clock.wall_ms()))
        reply: Reply[Acked] = Reply()
        batch = PendingBatch(view, read_header(view))
        deadline = services.clock.monotonic() + TIMEOUT_S
        mailbox = services.routes.anywhere(topic, partition)
        await mailbox.put(Append(batch=batch, deadline=deadline, reply=reply, size_bytes=len(view)))
        acked = await reply.wait()
        self._say(f"OK {topic}-{partition} offset {acked.base_offset}")

    # --- CONSUME ------------------------------------------------------------------------------------

    async def _consume(self, rest: str) -> None:
        words = rest.split()
        if len(words) != 2:
            raise InvalidRequest("write it so: CONSUME:topic group")
        topic, group = words
        self._services.gate.admit(self._context, Operation.READ, topic)
        count = await self._partitions(topic)
        places = await self._services.admin.line_places(group, topic)
        for partition in range(count):
            if partition not in places:
                places[partition] = await self._first_offset(topic, partition)
        self._say(f"OK consuming {topic} for {group}")
        try:
            await self._follow(topic, places, count, group)
        finally:
            with trio.move_on_after(TIMEOUT_S, shield=True):
                await self._services.admin.keep_line_places(group, topic, places)

    async def _first_offset(self, topic: str, partition: int) -> int:
        reply: Reply[OffsetAt] = Reply()
        mailbox = self._services.routes.anywhere(topic, partition)
        await mailbox.put(FindOffset(timestamp_ms=EARLIEST, isolation=1, reply=reply))
        return (await reply.wait()).offset

    async def _follow(self, topic: str, places: dict[int, int], count: int, group: str) -> None:
        """Send records as they come, until the client goes."""
        async with open_flat_nursery() as nursery:
            nursery.start_soon(self._until_gone, nursery.cancel_scope)
            while True:
                watcher = Watcher()
                sent = 0
                for partition in range(count):
                    sent += await self._send_from(topic, partition, places, watcher)
                if sent:
                    await self._services.admin.keep_line_places(group, topic, places)
                else:
                    await watcher.wait()
                watcher.gone = True

    async def _until_gone(self, scope: trio.CancelScope) -> None:
        view = memoryview(bytearray(64))
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await self._connection.receive_into(view):
                continue
        scope.cancel()

    async def _send_from(self, topic: str, partition: int, places: dict[int, int], watcher: Watcher) -> int:
        """Send what one partition has now; how many records."""
        reply: Reply[FetchPlan] = Reply()
        mailbox = self._services.routes.anywhere(topic, partition)
        await mailbox.put(
            Fetch(
                offset=places[partition],
                max_bytes=FETCH_BYTES,
                isolation=1,
                leader_epoch=-1,
                watcher=watcher,
                reply=reply,
            )
        )
        plan = await reply.wait()
        if plan.lease is None:
            return 0
        try:
            await make_resident(self._services.disk, plan.lease, plan.position, plan.size)
            data = plan.lease.read(plan.position, plan.size)
        finally:
            plan.close()
        lines: list[bytes] = []
        for position, header in iter_headers(data):
            if not header.is_control:
                batch = memoryview(data)[position : position + header.size]
                lines += _lines(batch, places[partition])
            places[partition] = header.next_offset
        await self._connection.send_and_wait(b"".join(lines))
        if self._connection.closed:
            raise NodeStopping
        return len(lines)


def _lines(batch: memoryview, first_offset: int) -> list[bytes]:
    """A batch's values, one a line; a line break inside a value is shown as \\n."""
    found = records.decode(batch, bytes_max=DECOMPRESSED_BYTES_MAX)
    return [(record.value or b"").replace(b"\n", b"\\n") + b"\n" for record in found if record.offset >= first_offset]
