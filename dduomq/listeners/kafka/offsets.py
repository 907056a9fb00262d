"""Where records lie: ListOffsets, OffsetForLeaderEpoch; who wrote them: InitProducerId, DescribeProducers; and
DeleteRecords.
"""

from dduomq.actors.actor import Message, Reply
from dduomq.actors.partition_messages import (
    EARLIEST,
    ActiveProducer,
    EndOfEpoch,
    EpochEnd,
    ListProducers,
    OffsetAt,
)
from dduomq.errors import DduomqError
from dduomq.listeners.admit import Operation
from dduomq.listeners.fetch import OffsetWish, answer_or_error, find_offsets
from dduomq.listeners.kafka.asking import Asking, Body
from dduomq.listeners.kafka.codes import UNSUPPORTED_VERSION, code_of

EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD = -4, -5, -6
TIERED = (LATEST_TIERED, EARLIEST_PENDING_UPLOAD)
NOTHING_TIERED = OffsetAt(-1, -1, -1)


async def list_offsets(asking: Asking) -> Body:
    """First, last, or first at a time; what tiered storage would have (KIP-405, KIP-1023) is nothing."""
    topics = asking.body["topics"]
    parts = [(topic["name"], part) for topic in topics for part in topic["partitions"]]
    wishes = [
        OffsetWish(
            name, part["partition_index"],
            EARLIEST if part["timestamp"] in {EARLIEST_LOCAL, *TIERED} else part["timestamp"],
            part["current_leader_epoch"],
        )
        for name, part in parts
    ]  # fmt: skip
    found = iter(await find_offsets(asking.services, asking.context, wishes, asking.body["isolation_level"]))
    return {
        "topics": [
            {"name": topic["name"], "partitions": [_offset(part, next(found)) for part in topic["partitions"]]}
            for topic in topics
        ]
    }


def _offset(part: Body, found: OffsetAt | DduomqError) -> Body:
    index = part["partition_index"]
    if isinstance(found, DduomqError):
        return {"partition_index": index, "error_code": code_of(found)}
    at = NOTHING_TIERED if part["timestamp"] in TIERED else found
    return {
        "partition_index": index, "error_code": 0, "timestamp": at.timestamp_ms, "offset": at.offset,
        "leader_epoch": at.leader_epoch,
    }  # fmt: skip


async def _ask(asking: Asking, topic: str, partition: int, message: Message) -> None:
    """Put a question to a partition; if there is none, its reply fails."""
    assert message.reply is not None
    try:
        asking.services.gate.admit(asking.context, Operation.DESCRIBE, topic)
        mailbox = asking.services.routes.partition(topic, partition)
    except DduomqError as error:
        message.reply.fail(error)
        return
    await mailbox.put(message)


async def offset_for_leader_epoch(asking: Asking) -> Body:
    """Where an epoch ends, so that a reader can see whether what it has read is still there (KIP-101, KIP-320)."""
    answered = []
    for topic in asking.body["topics"]:
        parts = []
        for part in topic["partitions"]:
            reply: Reply[EpochEnd] = Reply()
            question = EndOfEpoch(epoch=part["leader_epoch"], leader_epoch=part["current_leader_epoch"], reply=reply)
            await _ask(asking, topic["topic"], part["partition"], question)
            found = await answer_or_error(reply)
            parts.append(_epoch_end(part["partition"], found))
        answered.append({"topic": topic["topic"], "partitions": parts})
    return {"topics": answered}


def _epoch_end(partition: int, found: EpochEnd | DduomqError) -> Body:
    if isinstance(found, DduomqError):
        return {"partition": partition, "error_code": code_of(found)}
    return {"partition": partition, "error_code": 0, "leader_epoch": found.epoch, "end_offset": found.end_offset}


async def describe_producers(asking: Asking) -> Body:
    """The producers that each partition remembers (KIP-664)."""
    answered = []
    for topic in asking.body["topics"]:
        parts = []
        for partition in topic["partition_indexes"]:
            reply: Reply[tuple[ActiveProducer, ...]] = Reply()
            await _ask(asking, topic["name"], partition, ListProducers(reply=reply))
            found = await answer_or_error(reply)
            parts.append(_producers(partition, found))
        answered.append({"name": topic["name"], "partitions": parts})
    return {"topics": answered}


def _producers(partition: int, found: tuple[ActiveProducer, ...] | DduomqError) -> Body:
    if isinstance(found, DduomqError):
        return {
            "partition_index": partition, "error_code": code_of(found), "error_message": found.message,
            "active_producers": [],
        }  # fmt: skip
    return {"partition_index": partition, "error_code": 0, "active_producers": [_producer(each) for each in found]}


def _producer(producer: ActiveProducer) -> Body:
    state = producer.state
    return {
        "producer_id": producer.producer_id,
        "producer_epoch": state.epoch,
        "last_sequence": state.batches[-1].last_sequence if state.batches else -1,
        "last_timestamp": state.seen_ms,
        "coordinator_epoch": state.coordinator_epoch,
        "current_txn_start_offset": state.first_offset,
    }


async def init_producer_id(asking: Asking) -> Body:
    """An identity for an idempotent producer (KIP-98, KIP-360). Transactions are not spoken here yet."""
    body = asking.body
    if body["transactional_id"] is not None:
        return {"error_code": UNSUPPORTED_VERSION, "producer_id": -1, "producer_epoch": -1}
    try:
        given = await asking.services.admin.init_producer(body["producer_id"], body["producer_epoch"])
    except DduomqError as error:
        return {"error_code": code_of(error), "producer_id": -1, "producer_epoch": -1}
    return {"error_code": 0, "producer_id": given[0], "producer_epoch": given[1]}


async def delete_records(asking: Asking) -> Body:
    """Moves each partition's start; -1 is the high watermark."""
    answered = []
    for topic in asking.body["topics"]:
        parts = [
            await _delete(asking, topic["name"], part["partition_index"], part["offset"])
            for part in topic["partitions"]
        ]
        answered.append({"name": topic["name"], "partitions": parts})
    return {"topics": answered}


async def _delete(asking: Asking, topic: str, partition: int, offset: int) -> Body:
    try:
        asking.services.gate.admit(asking.context, Operation.DELETE, topic)
        start = await asking.services.admin.delete_records(topic, partition, offset)
    except DduomqError as error:
        return {"partition_index": partition, "low_watermark": -1, "error_code": code_of(error)}
    return {"partition_index": partition, "low_watermark": start, "error_code": 0}
