"""A record that comes again from a retry topic, as the same record that it was at first."""

import attrs

from dduomq.client.record import Record
from dduomq.wire import origin


@attrs.frozen
class Returned:
    """`attempt`: which try this is; `passed`: how often members that don't read its topic have passed it on."""

    attempt: int
    last_error: str | None
    passed: int


def restore(record: Record) -> Returned:
    """Give it its first topic, partition, offset, timestamp and headers back; and what else its copy says."""
    said = dict(record.headers)
    topic = said.get(origin.ORIGIN_TOPIC_HEADER)
    if topic is not None:
        record.topic = topic.decode(errors="replace")
    record.partition = _number(said.get(origin.ORIGIN_PARTITION_HEADER), record.partition)
    record.offset = _number(said.get(origin.ORIGIN_OFFSET_HEADER), record.offset)
    record.timestamp_ms = _number(said.get(origin.ORIGIN_TIME_HEADER), record.timestamp_ms)
    record.headers = [(name, content) for name, content in record.headers if name not in origin.HEADERS]
    error = said.get(origin.ERROR_HEADER)
    return Returned(
        _number(said.get(origin.ATTEMPT_HEADER), 0) + 1,
        None if error is None else error.decode(errors="replace"),
        _number(said.get(origin.PASSED_HEADER), 0),
    )


def _number(content: bytes | None, otherwise: int) -> int:
    try:
        return int(content or b"")
    except ValueError:
        return otherwise
