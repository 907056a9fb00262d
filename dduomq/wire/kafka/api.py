"""One API: its key, its versions, and the codecs of its requests and answers."""

from typing import Any

import attrs

from dduomq.wire.kafka.primitives import Chunk, Reader, Writer
from dduomq.wire.kafka.schema import LATEST, Field, Read, Write, parse, reader, writer

API_VERSIONS = 18


@attrs.frozen
class Message:
    """One kind of message in all its versions; a version's codec is made when it is first used."""

    fields: tuple[Field, ...]
    flexible_from: int
    _readers: dict[int, Read] = attrs.field(factory=dict, eq=False, repr=False)
    _writers: dict[int, Write] = attrs.field(factory=dict, eq=False, repr=False)

    def read(self, source: Reader, version: int) -> dict[str, Any]:
        """Raises `WireError` for bytes that are not this message."""
        read = self._readers.get(version)
        if read is None:
            read = reader(self.fields, version, flexible=version >= self.flexible_from)
            self._readers[version] = read
        return read(source)  # type: ignore[no-any-return]  # a structure's reader gives a dict

    def write(self, out: Writer, value: dict[str, Any], version: int) -> None:
        write = self._writers.get(version)
        if write is None:
            write = writer(self.fields, version, flexible=version >= self.flexible_from)
            self._writers[version] = write
        write(out, value)

    def encode(self, value: dict[str, Any], version: int) -> list[Chunk]:
        """The message alone, without a header."""
        out = Writer()
        self.write(out, value, version)
        return out.chunks()


@attrs.frozen
class Api:
    """`first` to `last` are the versions spoken here; from `flexible_from` on (KIP-482) lengths are compact."""

    key: int
    name: str
    first: int
    last: int
    flexible_from: int
    request: Message
    response: Message

    def is_flexible(self, version: int) -> bool:
        return version >= self.flexible_from


def api(key: int, name: str, versions: str, *, flexible: int = LATEST, request: str, response: str) -> Api:
    """An API from its two tables; `versions` is written `FIRST-LAST`."""
    first, last = (int(text) for text in versions.split("-"))
    return Api(
        key, name, first, last, flexible, Message(parse(request), flexible), Message(parse(response), flexible)
    )  # fmt: skip
