"""One Kafka connection without its input and output: frames in, requests out; answers in, chunks out.

Always true: answers leave in the order of their requests, whatever the order in which they were ready; a request
that can't be read, or of an API that is not spoken here, ends the connection, as with Kafka; only ApiVersions is
answered in any version (KIP-511), since it is how a client finds out.
"""

from collections import deque
from typing import Any

import attrs

from dduomq.errors import UnsupportedVersion
from dduomq.wire.kafka.api import API_VERSIONS, Api
from dduomq.wire.kafka.primitives import Chunk, Reader, Writer, size_of
from dduomq.wire.kafka.registry import APIS


class Slot:
    """An answer's place in the line."""

    __slots__ = ("chunks",)

    def __init__(self) -> None:
        self.chunks: list[Chunk] | None = None


@attrs.frozen
class Request:
    """One request. `supported` is False for an ApiVersions of a version that is not spoken here."""

    api: Api
    version: int
    correlation: int
    client: str
    body: dict[str, Any]
    slot: Slot
    supported: bool = True


class Session:
    """Requests and answers of one connection."""

    __slots__ = ("_line",)

    def __init__(self) -> None:
        self._line: deque[Slot] = deque()

    def receive(self, frame: memoryview) -> Request:
        """The request in a frame (without its length). Raises `WireError` and `UnsupportedVersion`."""
        source = Reader(frame)
        key, version, correlation = source.int16(), source.int16(), source.int32()
        api = APIS.get(key)
        if api is None:
            raise UnsupportedVersion(f"Kafka's API {key} is not spoken here")
        is_supported = api.first <= version <= api.last
        if not is_supported and key != API_VERSIONS:
            raise UnsupportedVersion(f"{api.name} is spoken here in versions {api.first} to {api.last}, not {version}")
        length = source.int16()
        client = source.text(length) if length >= 0 else ""
        body: dict[str, Any] = {}
        if is_supported:
            if api.is_flexible(version):
                _skip_tags(source)
            body = api.request.read(source, version)
        slot = Slot()
        self._line.append(slot)
        return Request(api, version if is_supported else 0, correlation, client, body, slot, is_supported)

    def answer(self, request: Request, body: dict[str, Any] | None) -> list[Chunk]:
        """What may be sent now that `request` is answered; `body` None: it gets no answer."""
        request.slot.chunks = [] if body is None else _encode(request, body)
        ready: list[Chunk] = []
        while self._line and self._line[0].chunks is not None:
            ready += self._line.popleft().chunks or ()
        return ready

    def abandon(self) -> list[Chunk]:
        """The connection is gone: the answers that were ready and had to wait for others before them."""
        line, self._line = self._line, deque()
        return [chunk for slot in line for chunk in slot.chunks or ()]


def _encode(request: Request, body: dict[str, Any]) -> list[Chunk]:
    """Length, header and body of an answer. ApiVersions has the old header always: the client knows no better."""
    out = Writer()
    out.int32(0)
    out.int32(request.correlation)
    if request.api.is_flexible(request.version) and request.api.key != API_VERSIONS:
        out.uvarint(0)
    request.api.response.write(out, body, request.version)
    chunks = out.chunks()
    first = chunks[0]
    assert isinstance(first, bytearray)
    first[:4] = (sum(map(size_of, chunks)) - 4).to_bytes(4, "big")
    return chunks


def _skip_tags(source: Reader) -> None:
    for _ in range(source.count(source.uvarint())):
        source.uvarint()
        source.take(source.uvarint())
