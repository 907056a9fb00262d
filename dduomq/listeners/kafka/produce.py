"""Produce (key 0): a batch is stored as the bytes that came; acked as durable as its topic promises."""

from collections.abc import Callable

from dduomq.errors import DduomqError, InvalidRecord, UnsupportedVersion
from dduomq.listeners.kafka.asking import Asking, Body
from dduomq.listeners.kafka.codes import code_of
from dduomq.listeners.produce import PendingProduce, Result, append
from dduomq.log.checks import ZSTD
from dduomq.wire.batch import COMPRESSION_MASK, HEADER_BYTES, MAGIC
from dduomq.wire.kafka.primitives import NO_ID

OLDEST_STORED = 3  # older ones are advertised for librdkafka's sake and refused, as Kafka 4 does (KAFKA-18659)
ZSTD_FROM = 7
MAGIC_AT, ATTRIBUTES_AT = 16, 22
NO_ANSWER = 0


class BadAcks(DduomqError):
    """acks is 0, 1 or -1 (all)."""

    code = 21


class UnknownCompression(DduomqError):
    """Zstandard belongs to Produce version 7 and above (KIP-110)."""

    code = 76


async def produce(asking: Asking, answer: Callable[[Body, bool, DduomqError | None], None]) -> None:
    """`answer(body, is_clean, first error)` is called once, when every part has its result."""
    body = asking.body
    places = [(topic, part) for topic in body["topic_data"] for part in topic["partition_data"]]

    def done(results: list[Result], is_clean: bool) -> None:
        failed = next((result for result in results if isinstance(result, DduomqError)), None)
        answer(_produced(asking, results), is_clean, failed)

    pending = PendingProduce(len(places), done)
    deadline = asking.services.clock.monotonic() + max(body["timeout_ms"], 0) / 1000
    for at, (topic, part) in enumerate(places):
        reply = pending.reply(at)
        try:
            name = asking.topic_name(topic["name"], topic["topic_id"])
            view = _records(asking, part["records"])
        except DduomqError as error:
            reply.fail(error)
            continue
        await append(asking.services, asking.context, name, part["index"], view, deadline, reply, body["acks"])


def _records(asking: Asking, records: memoryview | None) -> memoryview:
    if asking.version < OLDEST_STORED:
        raise UnsupportedVersion(
            "messages of formats before 2 are not stored; Kafka 0.11 and newer clients send format 2"
        )
    if asking.body["acks"] not in {-1, 0, 1}:
        raise BadAcks
    if not records:
        raise InvalidRecord("a partition was named without records for it")
    if len(records) > MAGIC_AT and records[MAGIC_AT] != MAGIC:
        raise InvalidRecord(
            f"a message of format {records[MAGIC_AT]}: only record batches of format {MAGIC} are stored"
        )
    is_zstd = len(records) >= HEADER_BYTES and records[ATTRIBUTES_AT] & COMPRESSION_MASK == ZSTD
    if is_zstd and asking.version < ZSTD_FROM:
        raise UnknownCompression
    return records


def _produced(asking: Asking, results: list[Result]) -> Body:
    each = iter(results)
    return {
        "responses": [
            {
                "name": topic["name"],
                "topic_id": topic.get("topic_id", NO_ID),
                "partition_responses": [_part(part["index"], next(each)) for part in topic["partition_data"]],
            }
            for topic in asking.body["topic_data"]
        ]
    }


def _part(index: int, result: Result) -> Body:
    if isinstance(result, DduomqError):
        return {"index": index, "error_code": code_of(result), "base_offset": -1, "error_message": result.message}
    return {
        "index": index,
        "error_code": 0,
        "base_offset": result.base_offset,
        "log_append_time_ms": result.append_time_ms,
        "log_start_offset": result.log_start_offset,
    }
