"""What goes in and what comes out: messages, records, results."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from dduomq.errors import InvalidDelay
from dduomq.wire.delay import DELAY_HEADER, DELIVER_AT_HEADER, TTL_HEADER, length_ms, moment_ms

TAG_HEADER = "dduomq-tag"
KEYS_HEADER = "dduomq-keys"
Headers = Sequence[tuple[str, bytes | None]]


class Record:
    """One record as it was read. `value` is what the deserializer made of `raw_value`."""

    __slots__ = ("_deserialize", "headers", "key", "offset", "partition", "raw_value", "timestamp_ms", "topic")

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        timestamp_ms: int,
        key: bytes | None,
        raw_value: bytes | None,
        headers: Headers,
        deserialize: Any = None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.timestamp_ms = timestamp_ms
        self.key = key
        self.raw_value = raw_value
        self.headers = headers
        self._deserialize = deserialize

    @property
    def value(self) -> Any:
        if self._deserialize is None:
            return self.raw_value
        return self._deserialize(self.raw_value)

    def header(self, name: str) -> bytes | None:
        """The last header of that name."""
        for held, content in reversed(self.headers):
            if held == name:
                return content
        return None

    @property
    def tag(self) -> str | None:
        content = self.header(TAG_HEADER)
        return None if content is None else content.decode()

    @property
    def keys(self) -> tuple[str, ...]:
        """The business keys it was sent with."""
        content = self.header(KEYS_HEADER)
        return () if not content else tuple(content.decode().split(" "))

    def __repr__(self) -> str:
        return f"<Record {self.topic}-{self.partition} offset {self.offset} key {self.key!r}>"


@attrs.frozen
class Message:
    """One record to send, for `send_batch` and interceptors.

    `delay`: it comes so much later, a timedelta or seconds. `deliver_at`: it comes then, a datetime with its zone, or
    milliseconds since 1970. `ttl`: so long it is worth the work; consumers pass it then (F44).
    """

    value: Any
    key: Any = None
    headers: Mapping[str, bytes | str] | Headers = ()
    tag: str | None = None
    keys: Sequence[str] = ()
    timestamp_ms: int | None = None
    sharding_key: Any = None
    delay: timedelta | float | None = None
    deliver_at: datetime | int | None = None
    ttl: timedelta | float | None = None


@attrs.frozen
class SendResult:
    """Where a record lies. `durability`: what the ack rests on; offset -1 for one-way sends.

    `delay_id`: of a record that comes later, to cancel it or to change its time; its offset stays empty.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    durability: str
    count: int = 1
    delay_id: str | None = None


def headers_of(message: Message) -> Headers:
    """A message's headers as they travel, tag and keys among them."""
    wish = _wish(message)
    if not message.headers and message.tag is None and not message.keys and wish is None and message.ttl is None:
        return []
    given = message.headers.items() if isinstance(message.headers, Mapping) else message.headers
    headers = [(name, content.encode() if isinstance(content, str) else content) for name, content in given]
    if message.tag is not None:
        headers.append((TAG_HEADER, message.tag.encode()))
    if message.keys:
        headers.append((KEYS_HEADER, " ".join(message.keys).encode()))
    if wish is not None:
        headers.append(wish)
    if message.ttl is not None:
        headers.append((TTL_HEADER, str(length_ms(message.ttl)).encode()))
    return headers


def _wish(message: Message) -> tuple[str, bytes] | None:
    """The header that delays it. Raises `InvalidDelay`."""
    if message.delay is not None and message.deliver_at is not None:
        raise InvalidDelay("a message has a delay or a time to be delivered at, not both")
    if message.delay is not None:
        return DELAY_HEADER, str(length_ms(message.delay)).encode()
    if message.deliver_at is None:
        return None
    at = message.deliver_at
    moment = moment_ms(at) if isinstance(at, datetime) else at
    if not isinstance(moment, int) or moment < 0:
        raise InvalidDelay(f"deliver_at={at!r} can't be: give a datetime with its zone, or milliseconds since 1970")
    return DELIVER_AT_HEADER, str(moment).encode()
