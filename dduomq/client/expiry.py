"""Time to live (F44): a record that nobody has worked on in time is not worked on any more.

A pure machine. `dduomq-ttl` says how long, from the record's timestamp on: `1500` (milliseconds), `1.5s`, `10m`; else
the topic's `message.ttl.ms` does. Always true: a header that can't be understood says nothing.
"""

from typing import Final

import attrs

from dduomq.client.record import Record
from dduomq.errors import InvalidDelay
from dduomq.wire import native
from dduomq.wire.delay import TTL_HEADER, parse_delay

DEAD_LETTER: Final = "dead-letter"
RUN_OUT: Final = "its time to live had run out"


@attrs.frozen
class TimeToLive:
    """A topic's: `ms` -1: for ever. `is_dead`: what has run out is a dead letter, else it is passed."""

    ms: int = -1
    is_dead: bool = False

    @classmethod
    def of(cls, topic: native.TopicMetadata) -> "TimeToLive":
        return cls(topic.ttl_ms, topic.ttl_action == DEAD_LETTER)

    def has_run_out(self, record: Record, now_ms: int) -> bool:
        said = record.header(TTL_HEADER) if record.headers else None
        ms = self.ms if said is None else _length(said, self.ms)
        return ms >= 0 and record.timestamp_ms + ms < now_ms


FOREVER = TimeToLive()


def _length(said: bytes, otherwise: int) -> int:
    try:
        return parse_delay(said.decode("ascii").strip())
    except (InvalidDelay, UnicodeDecodeError):
        return otherwise
