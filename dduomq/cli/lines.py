"""Lines of text to messages and back: what `produce` reads and `consume` writes.

Always true: what `consume --json` writes, `produce --input json` reads to the same key, value, headers and
time. Bytes that are not UTF-8 travel as base64 under a name that ends in `_base64`.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

import attrs

from dduomq.errors import MessageTooLarge, UsageError
from dduomq.limits import BATCH_BYTES_CEILING

FIELDS = {
    "key", "key_base64", "value", "value_base64", "headers", "tag", "partition", "timestamp_ms", "topic", "offset",
}  # fmt: skip


@attrs.frozen
class Line:
    """One message to send; `fields` go to `Client.send` as they are."""

    value: bytes | None
    fields: dict[str, Any]


class Splitter:
    """Cuts a stream of bytes into lines, without their ends."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now; raises `MessageTooLarge` for one that no broker would take."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > BATCH_BYTES_CEILING:
            raise MessageTooLarge(f"a line has more than {BATCH_BYTES_CEILING:,} bytes, the most for one record")
        return lines

    def end(self) -> list[bytes]:
        """What is left when the stream has ended without a line's end."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


@attrs.frozen
class TextFormat:
    """A line is a value; with a `separator`, `KEY SEPARATOR VALUE`."""

    separator: bytes | None = None
    null: bytes | None = None

    def parse(self, line: bytes, number: int) -> Line:
        key: bytes | None = None
        value: bytes | None = line
        if self.separator is not None:
            key, found, value = line.partition(self.separator)
            if not found:
                raise UsageError(f"line {number} has no {self.separator.decode()!r} between key and value")
            key = None if key == self.null else key
        return Line(None if value == self.null else value, {} if key is None else {"key": key})


@attrs.frozen
class JsonFormat:
    """A line is an object: value, and key, headers, tag, partition, timestamp_ms if wanted."""

    def parse(self, line: bytes, number: int) -> Line:
        try:
            found = json.loads(line)
        except ValueError as error:
            raise UsageError(f"line {number} is not JSON: {error}") from None
        if not isinstance(found, dict) or not ({"value", "value_base64"} & set(found)):
            raise UsageError(f'line {number} is no object with a "value"; a whole line as the value: --input lines')
        strange = set(found) - FIELDS
        if strange:
            raise UsageError(f"line {number} has {min(strange)!r}, which is none of {', '.join(sorted(FIELDS))}")
        fields = {name: found[name] for name in ("tag", "partition", "timestamp_ms") if found.get(name) is not None}
        key = _content(found, "key", number)
        if key is not None:
            fields["key"] = key
        if found.get("headers"):
            fields["headers"] = list(_headers(found["headers"], number))
        return Line(_content(found, "value", number), fields)


def _content(found: dict[str, Any], name: str, number: int) -> bytes | None:
    if f"{name}_base64" in found:
        try:
            return base64.b64decode(found[f"{name}_base64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise UsageError(f"line {number}: {name}_base64 is not base64") from None
    content = found.get(name)
    if content is None:
        return None
    return (content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)).encode()


def _headers(given: Any, number: int) -> Iterator[tuple[str, bytes | None]]:
    """A mapping, or a list of `{"name": …, "value": …}`, which keeps order and repeats."""
    items = [{"name": k, "value": v} for k, v in given.items()] if isinstance(given, dict) else given
    if not isinstance(items, list):
        raise UsageError(f"line {number}: headers are an object or a list")
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise UsageError(f'line {number}: a header is {{"name": …, "value": …}}')
        yield item["name"], _content(item, "value", number)


def shown(name: str, data: bytes | None) -> dict[str, str | None]:
    """`data` as JSON can carry it."""
    if data is None:
        return {name: None}
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}
