"""`--from` and `--to`: an offset or a time.

Always true: `from` is included, `to` is not. A time holds for records, so a batch is kept when any of its
records may be inside.
"""

import re
from datetime import datetime

import attrs

from dduomq.errors import ConfigError
from dduomq.wire.batch import BatchHeader

_MILLISECONDS = re.compile(r"(\d+)ms\Z")


@attrs.frozen
class Bound:
    """One end: just one of the two is set."""

    offset: int | None = None
    time_ms: int | None = None


def parse_bound(text: str) -> Bound:
    """`1234` is an offset; `2026-05-01T12:00:00Z`, `2026-05-01` or `1714557600000ms` a time.

    A time without a zone is local. Raises `ConfigError`.
    """
    if text.isdigit():
        return Bound(offset=int(text))
    milliseconds = _MILLISECONDS.match(text)
    if milliseconds:
        return Bound(time_ms=int(milliseconds[1]))
    try:
        return Bound(time_ms=int(datetime.fromisoformat(text).timestamp() * 1000))
    except ValueError:
        raise ConfigError(
            f"{text!r} is neither an offset (1234) nor a time (2026-05-01T12:00:00Z, 1714557600000ms)"
        ) from None


@attrs.frozen
class Bounds:
    """Both ends, either may be open."""

    start: Bound = Bound()
    stop: Bound = Bound()

    def may_hold(self, header: BatchHeader) -> bool:
        """Whether a record of the batch can be inside."""
        if self.start.offset is not None and header.last_offset < self.start.offset:
            return False
        if self.stop.offset is not None and header.base_offset >= self.stop.offset:
            return False
        return self.start.time_ms is None or header.max_timestamp >= self.start.time_ms

    def holds(self, offset: int, timestamp_ms: int) -> bool:
        """Whether a record is inside."""
        if self.start.offset is not None and offset < self.start.offset:
            return False
        if self.stop.offset is not None and offset >= self.stop.offset:
            return False
        if self.start.time_ms is not None and timestamp_ms < self.start.time_ms:
            return False
        return self.stop.time_ms is None or timestamp_ms < self.stop.time_ms

    def is_past(self, header: BatchHeader) -> bool:
        """Whether this batch and all behind it are outside."""
        return self.stop.offset is not None and header.base_offset >= self.stop.offset

    @property
    def is_open(self) -> bool:
        return self == Bounds()
