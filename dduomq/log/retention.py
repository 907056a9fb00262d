"""Which segments age, size and capacity let go.

Always true: only whole segments from the oldest on, nothing that a consumer may not have seen yet; a
segment's age is that of its newest record, by its own time or by the append's, whichever is earlier, so that a
record dated into the future does not keep a segment for ever.
"""

from collections.abc import Sequence

from dduomq.log.segment import Segment
from dduomq.log.settings import UNBOUNDED, CapacityPolicy, TopicSettings


def is_expired(segment: Segment, settings: TopicSettings, now_ms: int) -> bool:
    """Whether every record of the segment is older than retention.ms."""
    if settings.retention_ms < 0 or not segment.size:
        return False
    newest = segment.written_ms
    if 0 <= segment.max_timestamp < newest:
        newest = segment.max_timestamp
    return 0 <= newest < now_ms - settings.retention_ms


def segments_to_go(
    segments: Sequence[Segment], settings: TopicSettings, now_ms: int, *, size_bytes: int, seen: int, end: int
) -> int:
    """How many of the oldest segments may go.

    `seen`: the offset below which consumers may have read; `end`: the log's end. The last segment goes by age
    alone, and only when all of it may go.
    """
    gone = 0
    drops = settings.capacity_policy is CapacityPolicy.DROP_OLDEST and settings.capacity_bytes != UNBOUNDED
    while gone < len(segments) - 1 and segments[gone + 1].base_offset <= seen:
        segment = segments[gone]
        is_over = settings.retention_bytes >= 0 and size_bytes - segment.size >= settings.retention_bytes
        is_full = drops and size_bytes > settings.capacity_bytes
        if not (is_over or is_full or is_expired(segment, settings, now_ms)):
            return gone
        size_bytes -= segment.size
        gone += 1
    if gone == len(segments) - 1 and seen == end and is_expired(segments[-1], settings, now_ms):
        gone += 1
    return gone


def first_to_keep(settings: TopicSettings, *, start: int, seen: int, end: int) -> int:
    """Where a topic bounded in records, that drops its oldest, begins."""
    if settings.capacity_policy is not CapacityPolicy.DROP_OLDEST or settings.capacity_records == UNBOUNDED:
        return start
    return max(start, min(end - settings.capacity_records, seen))


def has_room(settings: TopicSettings, *, held: int, size_bytes: int, records: int, more_bytes: int) -> bool:
    """Whether a bounded partition that holds `held` records can take so much more."""
    if settings.capacity_records != UNBOUNDED and held + records > settings.capacity_records:
        return False
    return settings.capacity_bytes == UNBOUNDED or size_bytes + more_bytes <= settings.capacity_bytes
