"""The native protocol's requests, carried out.

`Produce` is handled in the reading task itself, without waiting: each part becomes an `Append`, and the last
part's ack sends the answer. Everything else gets a task of its own, so that a long poll holds nobody up;
answers leave as they are ready. Always true: a frame's buffer is given back once, after its answer, and goes
back to the pool only when the disk has surely let go of it.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, cast

import trio

from dduomq.actors.actor import Reply
from dduomq.actors.partition import Acked, Append
from dduomq.cluster.image import TopicRecord
from dduomq.errors import CorruptMessage, DduomqError, UnknownServerError, WireError
from dduomq.limits import FRAME_BYTES_MAX, FRAME_BYTES_MAX_UNGREETED, REQUESTS_IN_FLIGHT_MAX
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.connection import Connection
from dduomq.listeners.fetch import fetch, list_offsets
from dduomq.listeners.frames import Frame, FrameCutter
from dduomq.listeners.services import Services
from dduomq.log.plog import PendingBatch
from dduomq.wire import frame, native
from dduomq.wire.batch import crc_of, read_header

SERVER = "dduomq"
TIMEOUT_MS_MAX = 300_000


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
    )

    def __init__(self, connection: Connection, services: Services, listener: str) -> None:
        self._connection = connection
        self._services = services
        self._context = Context("anonymous", "", listener, connection.peer)
        self._cutter = FrameCutter(FRAME_BYTES_MAX_UNGREETED)
        self._greeted = False
        self._in_flight = 0
        self._slot: trio.Event | None = None
        self._nursery: trio.Nursery | None = None

    async def run(self, nursery: trio.Nursery, first: bytes) -> None:
        """Serve until the client goes. Raises `WireError` for bytes that are not the protocol."""
        self._nursery = nursery
        await self._consume(memoryview(first))
        scratch = memoryview(self._services.scratch)
        while True:
            if self._cutter.is_inside:
                received = await self._connection.receive_into(self._cutter.room())
                self._cutter.received(received)
                whole = self._cutter.take()
                if whole is not None:
                    await self._dispatch(whole)
            else:
                received = await self._connection.receive_into(scratch)
                await self._consume(scratch[:received])
            if not received:
                return

    async def _consume(self, view: memoryview) -> None:
        """Cut frames out of `view`. It is the shared scratch buffer: copied before anything is awaited."""
        cutter, buffers = self._cutter, self._services.buffers
        frames: list[Frame] = []
        while len(view):
            if not cutter.is_inside:
                size = cutter.next_size(view)
                if size is None:
                    cutter.hold(view)
                    break
                if not buffers.try_take(size):
                    view = memoryview(bytes(view))
                    for whole in frames:
                        await self._dispatch(whole)
                    frames = []
                    await buffers.take(size)
                view = view[cutter.begin(view, buffers.buffer(size)) :]
            view = view[cutter.fill(view) :]
            if (whole_frame := cutter.take()) is not None:
                frames.append(whole_frame)
        for whole in frames:
            await self._dispatch(whole)

    # --- requests -----------------------------------------------------------------------------------

    async def _dispatch(self, request: Frame) -> None:
        correlation, timeout_ms, body = native.read_request(frame.read_header(request.header))
        if not self._greeted:
            self._greet(correlation, body)
            self._services.buffers.give(request.size)
            return
        while self._in_flight >= REQUESTS_IN_FLIGHT_MAX:
            self._slot = trio.Event()
            await self._slot.wait()
        self._in_flight += 1
        if isinstance(body, native.Produce):
            await self._produce(request, correlation, timeout_ms, body)
        else:
            self._services.buffers.give(request.size)
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
            native.PROTOCOL_VERSION, SERVER, services.node_id, services.cluster_id, FRAME_BYTES_MAX
        )
        self._connection.send(frame.write(native.answer_header(correlation, answer)))

    def _finished(self) -> None:
        self._in_flight -= 1
        if self._slot is not None:
            self._slot.set()
            self._slot = None

    async def _serve(self, correlation: int, timeout_ms: int, body: object) -> None:
        try:
            if isinstance(body, native.Fetch):
                await fetch(self._services, self._context, self._connection, correlation, body)
                return
            with trio.fail_after(min(timeout_ms, TIMEOUT_MS_MAX) / 1000):
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

    # --- produce ------------------------------------------------------------------------------------

    async def _produce(self, request: Frame, correlation: int, timeout_ms: int, body: native.Produce) -> None:
        pending = PendingProduce(self, request, correlation, body)
        deadline = self._services.clock.monotonic() + timeout_ms / 1000
        position = 0
        for at, part in enumerate(body.parts):
            reply: Reply[Acked] = Reply(partial(pending.answered, at))
            view = request.payload[position : position + max(part.size, 0)]
            position += len(view)
            try:
                self._services.gate.admit(self._context, Operation.WRITE, part.topic)
                mailbox = self._services.routes.partition(part.topic, part.partition)
                batch = check_one_batch(view, part.size)
            except DduomqError as error:
                reply.fail(error)
                continue
            message = Append(batch=batch, deadline=deadline, reply=reply, size_bytes=part.size)
            if not mailbox.offer(message):
                await mailbox.put(message)
        if not body.parts:
            pending.finish()

    def produced(
        self,
        request: Frame,
        correlation: int,
        answer: native.Produced,
        *,
        wanted: bool,
        clean: bool,
    ) -> None:
        """All parts of a `Produce` are answered."""
        self._services.buffers.give(request.size)
        if clean:
            self._services.buffers.recycle(request.buffer)
        self._finished()
        if wanted:
            self._connection.send(frame.write(native.answer_header(correlation, answer)))


class PendingProduce:
    """Collects the answers of a `Produce`'s parts; with the last one the client gets its answer."""

    __slots__ = ("_correlation", "_is_clean", "_left", "_parts", "_request", "_session", "_wanted")

    def __init__(self, session: NativeSession, request: Frame, correlation: int, body: native.Produce) -> None:
        self._session = session
        self._request = request
        self._correlation = correlation
        self._parts: list[native.ProducedPart | None] = [None] * len(body.parts)
        self._left = len(body.parts)
        self._wanted = body.acks != 0
        self._is_clean = True

    def answered(self, at: int, acked: Acked | None, error: BaseException | None) -> None:
        if acked is not None:
            self._parts[at] = native.ProducedPart(
                0,
                None,
                acked.base_offset,
                acked.append_time_ms,
                acked.log_start_offset,
                acked.durability,
            )
        else:
            self._is_clean = False  # a disk thread may still be reading the buffer
            known = error if isinstance(error, DduomqError) else UnknownServerError()
            self._parts[at] = native.ProducedPart(known.code, known.message, -1, -1, -1, "")
        self._left -= 1
        if not self._left:
            self.finish()

    def finish(self) -> None:
        answer = native.Produced(cast(tuple[native.ProducedPart, ...], tuple(self._parts)))
        self._session.produced(self._request, self._correlation, answer, wanted=self._wanted, clean=self._is_clean)


def check_one_batch(view: memoryview, size: int) -> PendingBatch:
    """The one whole batch that a part holds; raises `CorruptMessage` that says what is wrong."""
    header = read_header(view)
    if header.size != size or len(view) != size:
        raise CorruptMessage(
            f"a part holds exactly one batch; it has {len(view)} bytes of {size}, the batch {header.size}"
        )
    if crc_of(view, 0, size) != header.crc:
        raise CorruptMessage("the record batch has a wrong CRC: it was damaged on its way; send it again")
    return PendingBatch(view, header)


# --- the other requests -----------------------------------------------------------------------------


def _topic_metadata(services: Services, record: TopicRecord) -> native.TopicMetadata:
    route = services.routes.table.get(record.name)
    settings = services.admin.settings_of(record) if route is None else route.settings
    count = record.partitions if route is None else len(route.partitions)
    partitions = tuple(native.PartitionMetadata(0, at, services.node_id, services.leader_epoch) for at in range(count))
    return native.TopicMetadata(
        0,
        None,
        record.name,
        record.topic_id,
        record.name.startswith("__"),
        settings.max_message_bytes,
        partitions,
    )


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
    host, port = services.advertised(context.listener)
    nodes = (native.NodeAddress(services.node_id, host, port),)
    return native.MetadataAnswer(services.cluster_id, services.node_id, nodes, tuple(topics))


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
    for at, state in enumerate(await services.admin.describe(body.name)):
        log = state.log
        marks = (-1,) * 6
        if log is not None:
            first = (log.log_start_offset, log.log_end_offset, log.high_watermark)
            marks = (*first, log.flushed_offset, log.size_bytes, log.segments)
        partitions.append(
            native.PartitionDescription(
                at, services.node_id, state.leader_epoch, *marks, state=state.reason or state.state
            )
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
