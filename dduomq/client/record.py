"""What goes in and what comes out: messages, records, results."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

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
    """One record to send, for `send_batch` and interceptors."""

    value: Any
    key: Any = None
    headers: Mapping[str, bytes | str] | Headers = ()
    tag: str | None = None
    keys: Sequence[str] = ()
    timestamp_ms: int | None = None
    sharding_key: Any = None


@attrs.frozen
class SendResult:
    """Where a record lies. `durability`: what the ack rests on; offset -1 for one-way sends."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    durability: str
    count: int = 1


def headers_of(message: Message) -> Headers:
    """A message's headers as they travel, tag and keys among them."""
    if not message.headers and message.tag is None and not message.keys:
        return []
    given = message.headers.items() if isinstance(message.headers, Mapping) else message.headers
    headers = [(name, content.encode() if isinstance(content, str) else content) for name, content in given]
    if message.tag is not None:
        headers.append((TAG_HEADER, message.tag.encode()))
    if message.keys:
        headers.append((KEYS_HEADER, " ".join(message.keys).encode()))
    return headers
