"""What a batch must be before it gets a place in a log.

Always true: these checks read the header only; a batch that passes can be indexed by Kafka's 32-bit fields.
"""

from dduomq.errors import InvalidRecord, InvalidTimestamp, MessageTooLarge
from dduomq.limits import RECORDS_PER_BATCH_MAX
from dduomq.log.settings import TimestampType, TopicSettings
from dduomq.wire.batch import LOG_APPEND_TIME, NO_PRODUCER_ID, BatchHeader

ZSTD = 4


def check_batch(header: BatchHeader, settings: TopicSettings, now_ms: int, *, internal: bool) -> None:
    """Raises `MessageTooLarge`, `InvalidRecord` or `InvalidTimestamp` with what is allowed.

    The broker's own batches (`internal`) may be control batches, and may have holes, as compaction leaves them.
    """
    if header.size > settings.max_message_bytes:
        raise MessageTooLarge(
            f"the record batch has {header.size} bytes, the topic's max.message.bytes is {settings.max_message_bytes}"
        )
    if header.compression > ZSTD:
        raise InvalidRecord(f"a batch of compression type {header.compression}; 0 to {ZSTD} are known")
    spanned = header.last_offset_delta + 1
    if spanned > RECORDS_PER_BATCH_MAX:
        raise InvalidRecord(f"a batch of {spanned} records, {RECORDS_PER_BATCH_MAX} is the most")
    if header.count > spanned or (not internal and (header.count < 1 or header.count != spanned)):
        raise InvalidRecord(f"a batch of {header.count} records with last offset delta {header.last_offset_delta}")
    if header.producer_id != NO_PRODUCER_ID:
        _check_producer(header)
    if header.is_control:
        if not internal:
            raise InvalidRecord("only the broker writes control batches")
    elif settings.message_timestamp_type is TimestampType.CREATE_TIME:
        _check_time(header, settings, now_ms)


def _check_producer(header: BatchHeader) -> None:
    if header.producer_id < 0 or header.producer_epoch < 0 or (header.base_sequence < 0 and not header.is_control):
        raise InvalidRecord(
            f"producer id {header.producer_id}, epoch {header.producer_epoch} and sequence {header.base_sequence} "
            "don't go together"
        )


def _check_time(header: BatchHeader, settings: TopicSettings, now_ms: int) -> None:
    if header.attributes & LOG_APPEND_TIME:
        raise InvalidTimestamp("a producer may not set the time type LogAppendTime")
    if header.max_timestamp < 0:
        return
    ahead = header.max_timestamp - now_ms
    if ahead > settings.message_timestamp_after_max_ms:
        raise InvalidTimestamp(
            f"a record's time is {ahead} ms ahead of the broker's clock, "
            f"{settings.message_timestamp_after_max_ms} is allowed (message.timestamp.after.max.ms)"
        )
    if now_ms - header.base_timestamp > settings.message_timestamp_before_max_ms:
        raise InvalidTimestamp(
            f"a record's time is {now_ms - header.base_timestamp} ms in the past, "
            f"{settings.message_timestamp_before_max_ms} is allowed (message.timestamp.before.max.ms)"
        )
