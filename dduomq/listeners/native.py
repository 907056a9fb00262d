"""The native protocol's requests, carried out.

`Produce` is handled in the reading task itself, without waiting: each part becomes an `Append`, and the last
part's ack sends the answer. Everything else gets a task of its own, so that a long poll holds nobody up;
answers leave as they are ready. Always true: a frame's buffer is given back once, after its answer, and goes
back to the pool only when the disk has surely let go of it.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import attrs
import trio

from dduomq.cluster.image import NO_LEADER, PartitionRecord, TopicRecord
from dduomq.errors import (
    CorruptMessage,
    DduomqError,
    InvalidRequest,
    LeaderNotAvailable,
    Overloaded,
    UnknownServerError,
    WireError,
)
from dduomq.limits import (
    FRAME_BYTES_MAX,
    FRAME_BYTES_MAX_UNGREETED,
    REQUESTS_IN_FLIGHT_MAX,
    STREAMS_PER_CONNECTION_MAX,
)
from dduomq.listeners import (
    native_cluster,
    native_delay,
    native_groups,
    native_letters,
    native_queue,
    native_routes,
    native_schedule,
)
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.connection import Connection
from dduomq.listeners.fetch import fetch, list_offsets
from dduomq.listeners.frames import NATIVE, Frame, FrameCutter, FrameReader
from dduomq.listeners.peer import PeerSession
from dduomq.listeners.produce import PendingProduce, Result, append
from dduomq.listeners.push import PushStream
from dduomq.listeners.services import Services
from dduomq.wire import frame, native, peer
from dduomq.wire import native_groups as native_wire
from dduomq.wire.native_queue import TakeRecords

SERVER = "dduomq"
TIMEOUT_MS_MAX = 300_000


class _IsPeer(Exception):
    """It is another node that has come: the connection is handed on."""

    def __init__(self, header: list[object]) -> None:
        super().__init__()
        self.header = header


class NativeSession:
    """One native connection, from after the magic to its end."""

    __slots__ = (
        "_connection",
        "_context",
        "_cutter",
        "_greeted",
        "_in_flight",
        "_nursery",
        "_services",
        "_slot",
        "_streams",
    )

    def __init__(self, connection: Connection, services: Services, listener: str) -> None:
        self._connection = connection
        self._services = services
        self._context = Context("anonymous", "", listener, connection.peer)
        self._cutter = FrameCutter(NATIVE, FRAME_BYTES_MAX_UNGREETED, services.buffers)
        self._greeted = False
        self._in_flight = 0
        self._slot: trio.Event | None = None
        self._nursery: trio.Nursery | None = None
        self._streams: dict[int, PushStream] = {}

    async def run(self, nursery: trio.Nursery, first: bytes) -> None:
        """Serve until the client goes. Raises `WireError` for bytes that are not the protocol."""
        self._nursery = nursery
        services = self._services
        try:
            await FrameReader(self._connection, services.scratch, self._cutter, self._dispatch).run(first)
        except _IsPeer as found:
            hello = found.header
        else:
            return
        if services.peers is None:
            raise WireError("this node is in no cluster")
        await PeerSession(self._connection, services.peers).run(nursery, services.scratch, hello)

    # --- requests -----------------------------------------------------------------------------------

    async def _dispatch(self, request: Frame) -> None:
        header = frame.read_header(request.header)
        if not self._greeted and peer.is_hello(header):
            raise _IsPeer(header)
        correlation, timeout_ms, body = native.read_request(header)
        if not self._greeted:
            await self._services.ready.wait()
            self._greet(correlation, body)
            request.release()
            return
        while self._in_flight >= REQUESTS_IN_FLIGHT_MAX:
            self._slot = trio.Event()
            await self._slot.wait()
        if isinstance(body, native_wire.Push | native_wire.Credit):
            request.release()
            self._stream(correlation, body)
            return
        self._in_flight += 1
        if isinstance(body, native.Produce):
            await self._produce(request, correlation, timeout_ms, body)
        else:
            request.release()
            assert self._nursery is not None
            self._nursery.start_soon(self._serve, correlation, timeout_ms, body)

    def _greet(self, correlation: int, body: object) -> None:
        if not isinstance(body, native.Hello):
            raise WireError("the first request must be Hello")
        services = self._services
        self._greeted = True
        self._cutter.frame_bytes_max = FRAME_BYTES_MAX
        self._context = Context("anonymous", body.client, self._context.listener, self._context.peer)
        answer = native.HelloAnswer(
            native.PROTOCOL_VERSION, SERVER, services.node_id, services.cluster_id(), FRAME_BYTES_MAX
        )
        self._connection.send(frame.write(native.answer_header(correlation, answer)))

    def _finished(self) -> None:
        self._in_flight -= 1
        if self._slot is not None:
            self._slot.set()
            self._slot = None

    async def _serve(self, correlation: int, timeout_ms: int, body: object) -> None:
        try:
            if isinstance(body, native.Hello):
                raise InvalidRequest("Hello is said once, at the beginning")
            if isinstance(body, native.Fetch):
                await fetch(self._services, self._context, self._connection, correlation, body)
                return
            if isinstance(body, TakeRecords):
                await native_queue.take_records(self._services, self._context, self._connection, correlation, body)
                return
            with trio.fail_after(max(0, min(timeout_ms, TIMEOUT_MS_MAX)) / 1000):
                answer = await HANDLERS[type(body)](self._services, self._context, body)
            header = native.answer_header(correlation, answer)
        except DduomqError as error:
            header = native.error_header(correlation, error.code, error.message)
        except trio.TooSlowError:
            header = native.error_header(correlation, 7, "the request's time ran out before it was done")
        except Exception as error:
            self._services.log.error("request_failed", request=type(body).__name__, exc_info=error)
            header = native.error_header(correlation, UnknownServerError.code, UnknownServerError().message)
        finally:
            self._finished()
        self._connection.send(frame.write(header))

    # --- streams ------------------------------------------------------------------------------------

    def _stream(self, correlation: int, body: native_wire.Push | native_wire.Credit) -> None:
        """A stream begins, or is given credits; one that has ended needs none."""
        assert self._nursery is not None
        try:
            if isinstance(body, native_wire.Credit):
                stream = self._streams.get(body.stream)
                if stream is not None:
                    stream.credit(body.credits)
                return
            if len(self._streams) >= STREAMS_PER_CONNECTION_MAX or correlation in self._streams:
                raise Overloaded(f"a connection has at most {STREAMS_PER_CONNECTION_MAX} streams, each its own number")
            stream = PushStream(self._services, self._context, self._connection, correlation, body)
        except DduomqError as error:
            self._connection.send(frame.write(native.error_header(correlation, error.code, error.message)))
            return
        self._streams[correlation] = stream
        self._nursery.start_soon(stream.run, partial(self._streams.pop, correlation))

    # --- produce ------------------------------------------------------------------------------------

    async def _produce(self, request: Frame, correlation: int, timeout_ms: int, body: native.Produce) -> None:
        def done(results: list[Result], is_clean: bool) -> None:
            request.release(recycle=is_clean)
            self._finished()
            if body.acks != 0:
                answer = native.Produced(tuple(map(_produced_part, results)))
                self._connection.send(frame.write(native.answer_header(correlation, answer)))

        pending = PendingProduce(len(body.parts), done)
        deadline = self._services.clock.monotonic() + timeout_ms / 1000
        position = 0
        for at, part in enumerate(body.parts):
            view = request.payload[position : position + max(part.size, 0)]
            position += len(view)
            reply = pending.reply(at)
            if len(view) != part.size:
                reply.fail(CorruptMessage(f"a part says it has {part.size} bytes, {len(view)} are left"))
                continue
            await append(self._services, self._context, part.topic, part.partition, view, deadline, reply, body.acks)


def _produced_part(result: Result) -> native.ProducedPart:
    if isinstance(result, DduomqError):
        return native.ProducedPart(result.code, result.message, -1, -1, -1, "")
    return native.ProducedPart(
        0, None, result.base_offset, result.append_time_ms, result.log_start_offset, result.durability,
        tuple(native.DelayedRecord(*one) for one in result.delayed),
    )  # fmt: skip


# --- the other requests -----------------------------------------------------------------------------


def _topic_metadata(services: Services, record: TopicRecord) -> native.TopicMetadata:
    route = services.routes.table.get(record.name)
    settings = services.admin.settings_of(record) if route is None else route.settings
    partitions = () if route is None else tuple(map(_partition_metadata, route.records))
    return native.TopicMetadata(
        0,
        None,
        record.name,
        record.topic_id,
        record.name.startswith("__"),
        settings.max_message_bytes,
        partitions,
        settings.message_ttl_ms,
        settings.message_ttl_action.value,
    )


def _partition_metadata(record: PartitionRecord) -> native.PartitionMetadata:
    code = LeaderNotAvailable.code if record.leader == NO_LEADER else 0
    return native.PartitionMetadata(code, record.partition, record.leader, record.leader_epoch)


async def _metadata(services: Services, context: Context, body: native.Metadata) -> native.MetadataAnswer:
    names = sorted(services.routes.table) if body.topics is None else body.topics
    topics = []
    for name in names:
        try:
            services.gate.admit(context, Operation.DESCRIBE, name)
            route = services.routes.table.get(name)
            if route is not None:
                record = route.record
            elif body.create:
                services.gate.admit(context, Operation.CREATE, name)
                record = await services.admin.create_on_use(name)
            else:
                record = services.admin.route(name).record
            topics.append(_topic_metadata(services, record))
        except DduomqError as error:
            topics.append(native.TopicMetadata(error.code, error.message, name, "", False, 0, ()))
    nodes = tuple(native.NodeAddress(*attrs.astuple(node)) for node in services.nodes(context.listener))
    return native.MetadataAnswer(services.cluster_id(), services.controller(), nodes, tuple(topics))


async def _init_producer(services: Services, _context: Context, body: native.InitProducer) -> native.ProducerIdentity:
    return native.ProducerIdentity(*await services.admin.init_producer(body.producer_id, body.producer_epoch))


async def _create_topic(services: Services, context: Context, body: native.CreateTopic) -> native.TopicMetadata:
    services.gate.admit(context, Operation.CREATE, body.name)
    record = await services.admin.create_topic(
        body.name,
        partitions=body.partitions,
        replication=body.replication,
        config=body.config,
        validate_only=body.validate_only,
        assignment=body.assignment or None,
    )
    return _topic_metadata(services, record)


async def _delete_topic(services: Services, context: Context, body: native.DeleteTopic) -> native.Done:
    services.gate.admit(context, Operation.DELETE, body.name)
    await services.admin.delete_topic(body.name)
    return native.Done()


async def _add_partitions(services: Services, context: Context, body: native.AddPartitions) -> native.TopicMetadata:
    services.gate.admit(context, Operation.ALTER, body.name)
    return _topic_metadata(services, await services.admin.add_partitions(body.name, body.total))


async def _delete_records(services: Services, context: Context, body: native.DeleteRecords) -> native.Purged:
    parts = []
    for part in body.parts:
        try:
            services.gate.admit(context, Operation.DELETE, part.topic)
            start = await services.admin.delete_records(part.topic, part.partition, part.offset)
            parts.append(native.PurgedPart(0, None, start))
        except DduomqError as error:
            parts.append(native.PurgedPart(error.code, error.message, -1))
    return native.Purged(tuple(parts))


async def _describe_topic(services: Services, context: Context, body: native.DescribeTopic) -> native.TopicDescription:
    services.gate.admit(context, Operation.DESCRIBE, body.name)
    record = services.admin.route(body.name).record
    partitions = []
    leaders = [held.leader for held in services.routes.table[body.name].records]
    for at, state in enumerate(await services.admin.describe(body.name)):
        log = state.log
        marks = (-1,) * 6
        if log is not None:
            first = (log.log_start_offset, log.log_end_offset, log.high_watermark)
            marks = (*first, log.flushed_offset, log.size_bytes, log.segments)
        partitions.append(
            native.PartitionDescription(at, leaders[at], state.leader_epoch, *marks, state=state.reason or state.state)
        )
    config = tuple(native.ConfigEntry(c.key, c.value, c.is_default, c.doc) for c in services.admin.config_of(body.name))
    return native.TopicDescription(record.name, record.topic_id, tuple(partitions), config)


async def _alter_topic(services: Services, context: Context, body: native.AlterTopic) -> native.Done:
    services.gate.admit(context, Operation.ALTER, body.name)
    changes: dict[str, str | None] = {**body.set, **dict.fromkeys(body.unset)}
    await services.admin.alter_topic(body.name, changes)
    return native.Done()


async def _restore_log(services: Services, context: Context, body: native.RestoreLog) -> native.Done:
    services.gate.admit(context, Operation.ALTER, body.topic)
    await services.admin.restore_log(body.topic, body.partition)
    return native.Done()


HANDLERS: Mapping[type, Callable[[Services, Context, Any], Awaitable[object]]] = {
    **native_groups.HANDLERS,
    **native_cluster.HANDLERS,
    **native_delay.HANDLERS,
    **native_letters.HANDLERS,
    **native_schedule.HANDLERS,
    **native_queue.HANDLERS,
    **native_routes.HANDLERS,
    native.Metadata: _metadata,
    native.ListOffsets: list_offsets,
    native.InitProducer: _init_producer,
    native.CreateTopic: _create_topic,
    native.DeleteTopic: _delete_topic,
    native.AddPartitions: _add_partitions,
    native.DeleteRecords: _delete_records,
    native.DescribeTopic: _describe_topic,
    native.AlterTopic: _alter_topic,
    native.RestoreLog: _restore_log,
}
