"""Producer snapshots of one log: which there are, which may go.

Always true: one is kept at the base of each segment and one newer than all of them; a snapshot named for an
offset holds what the batches below it say, so recovery may begin at any that lies within the log.
"""

from collections.abc import Iterable

from dduomq.log.segment import SNAPSHOT, Segment, parse_name


def offsets_of(names: Iterable[str]) -> list[int]:
    """The offsets of the snapshots among a directory's names, oldest first."""
    return sorted(offset for name in names if (offset := parse_name(name, SNAPSHOT)) is not None)


def not_needed(offsets: Iterable[int], segments: Iterable[Segment], end_offset: int) -> list[int]:
    """Snapshots beyond the log's end, and those between segments that a newer one has replaced."""
    bases = {segment.base_offset for segment in segments}
    within = [offset for offset in offsets if offset <= end_offset]
    newest = max(within, default=-1)
    return [offset for offset in offsets if offset > end_offset or (offset not in bases and offset != newest)]
