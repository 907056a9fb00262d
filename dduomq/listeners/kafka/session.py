"""One Kafka connection: requests in, answers out in their order.

`Produce` does not wait for its ack before the next request is read, so a client may have many in flight; every
other request is done before the next one is looked at, as with Kafka. Always true: a request that makes no sense,
or fails in a way that has no answer, closes the connection with one log line.
"""

from collections.abc import Mapping
from typing import Any

import trio

from dduomq.errors import DduomqError
from dduomq.limits import FRAME_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX, SESSION_TIMEOUT_MS_MAX, UNANSWERED_BYTES_MAX
from dduomq.listeners.admit import Context
from dduomq.listeners.connection import Connection, FilePart
from dduomq.listeners.frames import KAFKA, Frame, FrameCutter, FrameReader
from dduomq.listeners.kafka import (
    cluster,
    commits,
    configs,
    consumer_groups,
    groups,
    offsets,
    replicas,
    share,
    share_offsets,
    topics,
)
from dduomq.listeners.kafka.asking import Asking, Body, Handler
from dduomq.listeners.kafka.fetch import fetch
from dduomq.listeners.kafka.produce import NO_ANSWER, produce
from dduomq.listeners.kafka.share_sessions import ShareSessions
from dduomq.listeners.services import Services
from dduomq.wire.kafka.primitives import Chunk
from dduomq.wire.kafka.session import Request, Session
from dduomq.wire.kafka.tables.cluster import (
    API_VERSIONS,
    DESCRIBE_CLUSTER,
    DESCRIBE_LOG_DIRS,
    FIND_COORDINATOR,
)
from dduomq.wire.kafka.tables.consumer_groups import CONSUMER_GROUP_DESCRIBE, CONSUMER_GROUP_HEARTBEAT
from dduomq.wire.kafka.tables.data import (
    DELETE_RECORDS,
    DESCRIBE_PRODUCERS,
    FETCH,
    INIT_PRODUCER_ID,
    LIST_OFFSETS,
    OFFSET_FOR_LEADER_EPOCH,
    PRODUCE,
)
from dduomq.wire.kafka.tables.groups import (
    DELETE_GROUPS,
    DESCRIBE_GROUPS,
    HEARTBEAT,
    JOIN_GROUP,
    LEAVE_GROUP,
    LIST_GROUPS,
    OFFSET_COMMIT,
    OFFSET_DELETE,
    OFFSET_FETCH,
    SYNC_GROUP,
)
from dduomq.wire.kafka.tables.replicas import (
    ALTER_PARTITION_REASSIGNMENTS,
    ELECT_LEADERS,
    LIST_PARTITION_REASSIGNMENTS,
)
from dduomq.wire.kafka.tables.share import (
    ALTER_SHARE_GROUP_OFFSETS,
    DELETE_SHARE_GROUP_OFFSETS,
    DESCRIBE_SHARE_GROUP_OFFSETS,
    SHARE_ACKNOWLEDGE,
    SHARE_FETCH,
    SHARE_GROUP_DESCRIBE,
    SHARE_GROUP_HEARTBEAT,
)
from dduomq.wire.kafka.tables.topics import (
    ALTER_CONFIGS,
    CREATE_PARTITIONS,
    CREATE_TOPICS,
    DELETE_TOPICS,
    DESCRIBE_CONFIGS,
    DESCRIBE_TOPIC_PARTITIONS,
    INCREMENTAL_ALTER_CONFIGS,
    METADATA,
)

REQUEST_TIMEOUT_S = 120
GROUP_TIMEOUT_S = SESSION_TIMEOUT_MS_MAX / 1000 + REQUEST_TIMEOUT_S
WAIT_FOR_OTHERS = (JOIN_GROUP, SYNC_GROUP)  # the group's own time-outs end these
HANDLERS: Mapping[int, Handler] = {
    FETCH.key: fetch,
    LIST_OFFSETS.key: offsets.list_offsets,
    OFFSET_FOR_LEADER_EPOCH.key: offsets.offset_for_leader_epoch,
    INIT_PRODUCER_ID.key: offsets.init_producer_id,
    DELETE_RECORDS.key: offsets.delete_records,
    DESCRIBE_PRODUCERS.key: offsets.describe_producers,
    METADATA.key: topics.metadata,
    CREATE_TOPICS.key: topics.create_topics,
    DELETE_TOPICS.key: topics.delete_topics,
    CREATE_PARTITIONS.key: topics.create_partitions,
    DESCRIBE_TOPIC_PARTITIONS.key: topics.describe_topic_partitions,
    DESCRIBE_CONFIGS.key: configs.describe_configs,
    ALTER_CONFIGS.key: configs.alter_configs,
    INCREMENTAL_ALTER_CONFIGS.key: configs.incremental_alter_configs,
    JOIN_GROUP.key: groups.join_group,
    SYNC_GROUP.key: groups.sync_group,
    HEARTBEAT.key: groups.heartbeat,
    LEAVE_GROUP.key: groups.leave_group,
    LIST_GROUPS.key: groups.list_groups,
    DESCRIBE_GROUPS.key: groups.describe_groups,
    DELETE_GROUPS.key: groups.delete_groups,
    CONSUMER_GROUP_HEARTBEAT.key: consumer_groups.consumer_group_heartbeat,
    CONSUMER_GROUP_DESCRIBE.key: consumer_groups.consumer_group_describe,
    SHARE_GROUP_HEARTBEAT.key: share.share_group_heartbeat,
    SHARE_GROUP_DESCRIBE.key: share.share_group_describe,
    SHARE_FETCH.key: share.share_fetch,
    SHARE_ACKNOWLEDGE.key: share.share_acknowledge,
    DESCRIBE_SHARE_GROUP_OFFSETS.key: share_offsets.describe_share_group_offsets,
    ALTER_SHARE_GROUP_OFFSETS.key: share_offsets.alter_share_group_offsets,
    DELETE_SHARE_GROUP_OFFSETS.key: share_offsets.delete_share_group_offsets,
    OFFSET_COMMIT.key: commits.offset_commit,
    OFFSET_FETCH.key: commits.offset_fetch,
    OFFSET_DELETE.key: commits.offset_delete,
    FIND_COORDINATOR.key: cluster.find_coordinator,
    DESCRIBE_CLUSTER.key: cluster.describe_cluster,
    DESCRIBE_LOG_DIRS.key: cluster.describe_log_dirs,
    ELECT_LEADERS.key: replicas.elect_leaders,
    ALTER_PARTITION_REASSIGNMENTS.key: replicas.alter_partition_reassignments,
    LIST_PARTITION_REASSIGNMENTS.key: replicas.list_partition_reassignments,
}


class KafkaSession:
    """One connection of a Kafka client."""

    __slots__ = (
        "_bytes_in_flight",
        "_connection",
        "_context",
        "_cutter",
        "_in_flight",
        "_services",
        "_session",
        "_shares",
        "_slot",
    )

    def __init__(self, connection: Connection, services: Services, listener: str) -> None:
        self._connection = connection
        self._services = services
        self._context = Context("anonymous", "", listener, connection.peer)
        self._cutter = FrameCutter(KAFKA, FRAME_BYTES_MAX, services.buffers)
        self._session = Session()
        self._shares = ShareSessions(services.share_sessions)
        self._in_flight = 0
        self._bytes_in_flight = 0
        self._slot: trio.Event | None = None

    async def run(self, first: bytes) -> None:
        """Serve until the client goes, or says something that ends it."""
        try:
            await FrameReader(self._connection, self._services.scratch, self._cutter, self._dispatch).run(first)
        except DduomqError as error:
            self._services.log.warning("connection_closed", peer=self._connection.peer, reason=error.message)
        finally:
            self._shares.abandon()
            for chunk in self._session.abandon():
                if isinstance(chunk, FilePart):
                    chunk.lease.close()

    async def _dispatch(self, frame: Frame) -> None:
        request = self._session.receive(frame.payload)
        if request.client != self._context.client:
            self._context = Context("anonymous", request.client, self._context.listener, self._context.peer)
        asking = Asking(self._services, self._context, request.version, request.body, self._shares)
        if request.api is PRODUCE:
            await self._produce(frame, request, asking)
        elif request.api is API_VERSIONS:
            frame.release()
            self._send(self._session.answer(request, cluster.api_versions(asking, supported=request.supported)))
        else:
            frame.release()
            self._send(self._session.answer(request, await self._do(request, asking)))

    async def _do(self, request: Request, asking: Asking) -> Body:
        try:
            with trio.move_on_after(GROUP_TIMEOUT_S if request.api in WAIT_FOR_OTHERS else REQUEST_TIMEOUT_S):
                return await HANDLERS[request.api.key](asking)
        except DduomqError as error:
            raise Unanswered(f"{request.api.name}: {error.message}") from error
        except Exception as error:
            self._services.log.error("request_failed", request=request.api.name, exc_info=error)
            raise Unanswered(f"{request.api.name} failed") from error
        raise Unanswered(f"{request.api.name} was not done in its time")

    def _send(self, chunks: list[Chunk]) -> None:
        """Small answers go at once, as one piece."""
        if not chunks:
            return
        ready: list[Any] = chunks
        if any(isinstance(chunk, FilePart) for chunk in ready):
            self._connection.send_parts(ready)
        else:
            self._connection.send(ready[0] if len(ready) == 1 else b"".join(ready))

    # --- produce ------------------------------------------------------------------------------------

    async def _produce(self, frame: Frame, request: Request, asking: Asking) -> None:
        while self._in_flight >= REQUESTS_IN_FLIGHT_MAX or self._bytes_in_flight >= UNANSWERED_BYTES_MAX:
            self._slot = trio.Event()
            await self._slot.wait()
        self._in_flight += 1
        self._bytes_in_flight += frame.size

        def done(body: Body, is_clean: bool, failed: DduomqError | None) -> None:
            frame.release(recycle=is_clean)
            self._finished(frame.size)
            wants_none = request.body["acks"] == NO_ANSWER
            self._send(self._session.answer(request, None if wants_none else body))
            if wants_none and failed is not None:
                self._give_up(failed)

        await produce(asking, done)

    def _finished(self, size: int) -> None:
        self._in_flight -= 1
        self._bytes_in_flight -= size
        if self._slot is not None:
            self._slot.set()
            self._slot = None

    def _give_up(self, error: DduomqError) -> None:
        """With acks=0 the end of the connection is the only way to say that something was lost."""
        self._services.log.warning("connection_closed", peer=self._connection.peer, reason=error.message)
        self._connection.end()


class Unanswered(DduomqError):
    """A request that can't be answered; its connection is closed."""

    code = 1121
