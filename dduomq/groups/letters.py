"""What a record's copy says of itself, in a retry or a dead-letter topic.

A pure machine. Always true: a copy says where the record was first stored, however often it has been moved since; what
a producer has written into such headers of a record of its own counts for nothing.
"""

import attrs

from dduomq.groups.records import PASSED_ON
from dduomq.ids import DEAD, RETRY
from dduomq.limits import ASIDE_TEXT_CHARACTERS_MAX
from dduomq.wire import origin as names
from dduomq.wire.origin import ATTEMPT_HEADER, HEADERS
from dduomq.wire.records import Headers, StoredRecord


@attrs.frozen
class Source:
    """Where a record was read from; `kind`: "" of a user's topic, RETRY or DEAD of a group's."""

    topic: str
    partition: int
    kind: str


@attrs.frozen
class Origin:
    """Where it was first stored; `offset` -1: it never was, it was to come later."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


def origin_of(record: StoredRecord, source: Source) -> Origin:
    held = dict(record.headers) if source.kind else {}
    topic = held.get(names.ORIGIN_TOPIC_HEADER)
    if topic is None:
        return Origin(source.topic, source.partition, record.offset, record.timestamp_ms)
    return Origin(
        topic.decode(errors="replace"), _number(held.get(names.ORIGIN_PARTITION_HEADER), 0),
        _number(held.get(names.ORIGIN_OFFSET_HEADER), -1),
        _number(held.get(names.ORIGIN_TIME_HEADER), record.timestamp_ms),
    )  # fmt: skip


def attempts_of(record: StoredRecord, source: Source) -> int:
    """How often it had been tried when it was written; a dead letter that comes back begins anew."""
    return _number(dict(record.headers).get(ATTEMPT_HEADER), 0) if source.kind == RETRY else 0


def plain_headers(record: StoredRecord, source: Source) -> Headers:
    """Its sender's own."""
    return [(name, content) for name, content in record.headers if not source.kind or name not in HEADERS]


def copy_headers(
    record: StoredRecord,
    source: Source,
    *,
    group: str,
    to: str,
    failed_ms: int,
    error: str,
    reason: str,
    tries: int = 0,
) -> Headers:
    """Those of the copy that goes to the group's topic of the kind `to`.

    `tries`: here; 0: the one that has failed; PASSED_ON: none.
    """
    came = origin_of(record, source)
    is_failure = source.kind != DEAD  # from there it is sent on by a person
    is_passed_on = tries == PASSED_ON
    attempts = attempts_of(record, source) + (0 if is_passed_on else tries or is_failure)
    own = [(name, content) for name, content in record.headers if name not in HEADERS]
    told = [
        (names.ORIGIN_TOPIC_HEADER, came.topic),
        (names.ORIGIN_PARTITION_HEADER, str(came.partition)),
        (names.ORIGIN_OFFSET_HEADER, str(came.offset)),
        (names.ORIGIN_TIME_HEADER, str(came.timestamp_ms)),
        (names.GROUP_HEADER, group),
        (names.ATTEMPT_HEADER, str(attempts)),
    ]
    if is_passed_on:
        passed = _number(dict(record.headers).get(names.PASSED_HEADER), 0) + 1
        told.append((names.PASSED_HEADER, str(passed)))
    elif is_failure:
        told.append((names.FAILED_HEADER, str(failed_ms)))
    if error:
        told.append((names.ERROR_HEADER, error[:ASIDE_TEXT_CHARACTERS_MAX]))
    if reason and to == DEAD:
        told.append((names.REASON_HEADER, reason[:ASIDE_TEXT_CHARACTERS_MAX]))
    return [*own, *((name, text.encode()) for name, text in told)]


def _number(content: bytes | None, otherwise: int) -> int:
    try:
        return int(content or b"")
    except ValueError:
        return otherwise
