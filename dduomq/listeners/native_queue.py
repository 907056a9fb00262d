"""The native protocol's requests about queues, carried out."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs

from dduomq.actors.actor import Mailbox, Reply, ask
from dduomq.actors.coordinator_queue_messages import (
    BeatOfShare,
    ConfigureQueues,
    DescribeQueues,
    MoveQueues,
    QueueState,
    Settle,
    Settled,
    ShareBeaten,
)
from dduomq.errors import DduomqError, InvalidRequest
from dduomq.groups.queue import Ending
from dduomq.groups.records import Place, ShareRecord, encode_places
from dduomq.groups.share import ShareBeat
from dduomq.ids import RETRY
from dduomq.limits import (
    FETCH_BYTES_MAX,
    PARTITIONS_PER_REQUEST_MAX,
    QUEUE_DELAY_MS_MAX,
    QUEUE_LOCK_MS_MAX,
    QUEUE_LOCKS_MAX,
    QUEUE_REASON_CHARACTERS_MAX,
)
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.connection import Connection
from dduomq.listeners.services import Services
from dduomq.listeners.taking import Spot, Taken, TakeWish, take
from dduomq.wire import frame, native
from dduomq.wire import native_queue as wire
from dduomq.wire.native_groups import AssignedPart

FORGET = -1


async def _coordinator(services: Services, context: Context, group: str, operation: Operation) -> Mailbox:
    services.gate.admit(context, operation, f"group:{group}")
    return await services.groups.coordinator(group)


async def _heartbeat(services: Services, context: Context, body: wire.QueueHeartbeat) -> wire.QueueHeartbeatAnswer:
    for topic in body.topics or ():
        services.gate.admit(context, Operation.READ, topic)
    topics = None if body.topics is None else (*body.topics, services.topics.name(RETRY, body.group))
    beat = ShareBeat(
        body.member_id, body.member_epoch, context.client, context.peer, body.zone, topics, body.session_ms,
        body.deliveries, can_be_asked=True,
    )  # fmt: skip
    held = None if body.held is None else {(part.topic_id, part.partition): part.ranges for part in body.held}
    mailbox = await _coordinator(services, context, body.group, Operation.READ)

    def make(reply: Reply[ShareBeaten]) -> BeatOfShare:
        return BeatOfShare(group=body.group, beat=beat, wait_ms=body.wait_ms, held=held, reply=reply)

    beaten = await ask(mailbox, make)
    table, names = services.routes.table, services.routes.name_of
    assignment = None if beaten.assignment is None else tuple(
        AssignedPart(topic_id, name, tuple(partitions), table[name].record.kind)
        for topic_id, partitions in encode_places(beaten.assignment)
        if (name := names(topic_id)) is not None
    )  # fmt: skip
    doubts = tuple(wire.HeldPart(*place, tuple(ranges)) for place, ranges in beaten.doubts.items())
    return wire.QueueHeartbeatAnswer(beaten.epoch, beaten.interval_ms, assignment, doubts)


async def take_records(
    services: Services, context: Context, connection: Connection, correlation: int, body: wire.TakeRecords
) -> None:
    """Answer with records that are the asker's from now on, after `max_wait_ms` at the latest."""
    if len(body.parts) > PARTITIONS_PER_REQUEST_MAX or not 0 < body.max_records <= QUEUE_LOCKS_MAX:
        raise InvalidRequest(f"1 to {QUEUE_LOCKS_MAX} records of {PARTITIONS_PER_REQUEST_MAX} partitions can be taken")
    mailbox = await _coordinator(services, context, body.group, Operation.READ)
    wish = TakeWish(
        body.group, body.member_id, [Spot(part.topic, part.topic_id, part.partition) for part in body.parts],
        body.max_records, min(max(body.max_bytes, 1), FETCH_BYTES_MAX), body.max_wait_ms, body.lock_ms, body.start,
    )  # fmt: skip
    found, lock_ms = await take(services, context, mailbox, wish)
    names = {spot.place: spot.topic for spot in wish.spots}
    parts, data = [], []
    for place, result in found.items():
        if isinstance(result, Taken):
            spans = tuple((span.first, span.last, span.count) for span in result.spans)
            parts.append(wire.TakenPart(place[0], names[place], place[1], 0, None, spans, len(result.data)))
            data.append(result.data)
        else:
            parts.append(wire.TakenPart(place[0], names[place], place[1], result.code, result.message, (), 0))
    header = native.answer_header(correlation, wire.RecordsTaken(lock_ms, tuple(parts)))
    connection.send(b"".join((frame.write(header, sum(map(len, data))), *data)))


async def _settle(services: Services, context: Context, body: wire.SettleRecords) -> wire.RecordsSettled:
    """Part by part, each with its own error."""
    parts: list[tuple[Place, tuple[Ending, ...]]] = []
    errors: list[DduomqError | int] = []  # what is wrong with a part, or its number among those that are asked for
    for part in body.parts:
        try:
            _check(part.endings)
        except DduomqError as error:
            errors.append(error)
        else:
            errors.append(len(parts))
            endings = tuple(Ending(*attrs.astuple(ending)) for ending in part.endings)
            parts.append(((part.topic_id, part.partition), endings))
    mailbox = await _coordinator(services, context, body.group, Operation.READ)

    def make(reply: Reply[Settled]) -> Settle:
        return Settle(group=body.group, member_id=body.member_id, parts=tuple(parts), reply=reply)

    settled = await ask(mailbox, make)
    found = [error if isinstance(error, DduomqError) else settled.refused.get(error) for error in errors]
    return wire.RecordsSettled(
        tuple(wire.SettledPart(error.code, error.message) if error else wire.SettledPart(0, None) for error in found)
    )


def _check(endings: Sequence[wire.RecordEnding]) -> None:
    for ending in endings:
        most = QUEUE_LOCK_MS_MAX if ending.kind == wire.RENEW else QUEUE_DELAY_MS_MAX
        if not 0 <= ending.ms <= most:
            raise InvalidRequest(f"{ending.ms} ms can't be: 0 to {most} can")
        if len(ending.reason) > QUEUE_REASON_CHARACTERS_MAX:
            raise InvalidRequest(f"a reason has at most {QUEUE_REASON_CHARACTERS_MAX} characters")


async def _describe(services: Services, context: Context, body: wire.DescribeQueue) -> wire.QueueDescription:
    mailbox = await _coordinator(services, context, body.group, Operation.DESCRIBE)
    states: Sequence[QueueState] = await ask(mailbox, lambda reply: DescribeQueues(group=body.group, reply=reply))
    record: ShareRecord = await ask(mailbox, lambda reply: ConfigureQueues(group=body.group, reply=reply))
    parts = sorted(
        (topic, state.place[1], state.start, state.end, state.acquired, state.in_flight - state.acquired)
        for state in states
        if (topic := services.routes.name_of(state.place[0])) is not None
    )
    return wire.QueueDescription(record.deliveries, record.lock_ms, tuple(wire.QueuePart(*part) for part in parts))


async def _move(services: Services, context: Context, body: wire.MoveQueue) -> native.Done:
    services.gate.admit(context, Operation.READ, body.topic)
    topic_id = services.admin.route(body.topic).record.topic_id
    starts: dict[Place, int | None] = {}
    for partition, offset in body.starts:
        services.routes.check(body.topic, partition)
        if offset < FORGET:
            raise InvalidRequest(f"a queue can't begin at offset {offset}")
        starts[topic_id, partition] = None if offset == FORGET else offset
    mailbox = await _coordinator(services, context, body.group, Operation.ALTER)

    def make(reply: Reply[None]) -> MoveQueues:
        return MoveQueues(group=body.group, starts=starts, reply=reply)

    await ask(mailbox, make)
    return native.Done()


HANDLERS: Mapping[type, Callable[[Services, Context, Any], Awaitable[object]]] = {
    wire.QueueHeartbeat: _heartbeat,
    wire.SettleRecords: _settle,
    wire.DescribeQueue: _describe,
    wire.MoveQueue: _move,
}
