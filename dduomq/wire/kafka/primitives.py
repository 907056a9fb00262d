"""Kafka's primitive types over a buffer: https://kafka.apache.org/protocol#protocol_types.

Always true: nothing is allocated for a length or a count that was not checked against the bytes that are left;
one request holds no more than `ELEMENTS_MAX` array elements; whatever is wrong raises `WireError`. Records come
out as a view of the buffer they lie in, and go in as parts that are sent from where they are.
"""

import struct
from typing import Protocol, TypeAlias

from dduomq.errors import WireError
from dduomq.limits import KAFKA_ELEMENTS_MAX
from dduomq.ports import Buffer

NO_ID = "0" * 32  # a topic id that is not given
VARINT_BYTES_MAX = 5
_I8, _I16, _I32, _I64 = struct.Struct(">b"), struct.Struct(">h"), struct.Struct(">i"), struct.Struct(">q")
_U16, _U32, _F64 = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">d")


class Part(Protocol):
    """Bytes that lie elsewhere, `size` of them, to be sent from there."""

    @property
    def size(self) -> int: ...


Chunk: TypeAlias = Buffer | Part


class Reader:
    """Takes one value after another out of a buffer."""

    __slots__ = ("_elements", "end", "position", "view")

    def __init__(self, view: memoryview, position: int = 0) -> None:
        self.view = view
        self.position = position
        self.end = len(view)
        self._elements = KAFKA_ELEMENTS_MAX

    def _number(self, kind: struct.Struct) -> int:
        try:
            (value,) = kind.unpack_from(self.view, self.position)
        except struct.error:
            raise WireError(f"the request ends in the middle of a number, at byte {self.end}") from None
        self.position += kind.size
        return value  # type: ignore[no-any-return]  # a struct of one number gives a number

    def int8(self) -> int:
        return self._number(_I8)

    def int16(self) -> int:
        return self._number(_I16)

    def int32(self) -> int:
        return self._number(_I32)

    def int64(self) -> int:
        return self._number(_I64)

    def uint16(self) -> int:
        return self._number(_U16)

    def uint32(self) -> int:
        return self._number(_U32)

    def float64(self) -> float:
        return self._number(_F64)

    def boolean(self) -> bool:
        return self._number(_I8) != 0

    def uvarint(self) -> int:
        """Seven bits a byte, the lowest first; at most 32 bits."""
        value = shift = 0
        position = self.position
        for _ in range(VARINT_BYTES_MAX):
            if position >= self.end:
                raise WireError(f"the request ends in the middle of a number, at byte {self.end}")
            byte = self.view[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self.position = position
                return value
            shift += 7
        raise WireError("a variable-length number has more than five bytes")

    def take(self, size: int) -> memoryview:
        """The next `size` bytes, as a view."""
        start, stop = self.position, self.position + size
        if size < 0 or stop > self.end:
            raise WireError(f"a field says it has {size} bytes, {self.end - start} are left")
        self.position = stop
        return self.view[start:stop]

    def uuid(self) -> str:
        """32 hexadecimal digits."""
        return self.take(16).hex()

    def text(self, size: int) -> str:
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError:
            raise WireError("a string is not UTF-8") from None

    def count(self, count: int) -> int:
        """An array's length, checked: each element has at least one byte."""
        if count > self.end - self.position:
            raise WireError(f"an array says it has {count} elements; {self.end - self.position} bytes are left")
        self._elements -= count
        if self._elements < 0:
            raise WireError(f"there are more than {KAFKA_ELEMENTS_MAX} array elements in one request")
        return count


class Writer:
    """Puts one value after another into chunks."""

    __slots__ = ("_chunks", "out")

    def __init__(self) -> None:
        self.out = bytearray()
        self._chunks: list[Chunk] = []

    def int8(self, value: int) -> None:
        self.out += _I8.pack(value)

    def int16(self, value: int) -> None:
        self.out += _I16.pack(value)

    def int32(self, value: int) -> None:
        self.out += _I32.pack(value)

    def int64(self, value: int) -> None:
        self.out += _I64.pack(value)

    def uint16(self, value: int) -> None:
        self.out += _U16.pack(value)

    def uint32(self, value: int) -> None:
        self.out += _U32.pack(value)

    def float64(self, value: float) -> None:
        self.out += _F64.pack(value)

    def boolean(self, value: object) -> None:
        self.out.append(1 if value else 0)

    def uvarint(self, value: int) -> None:
        while value >= 0x80:
            self.out.append(value & 0x7F | 0x80)
            value >>= 7
        self.out.append(value)

    def uuid(self, value: str) -> None:
        self.out += bytes.fromhex(value)

    def splice(self, value: Chunk) -> None:
        """Bytes or a part that were written elsewhere."""
        if isinstance(value, bytes | bytearray | memoryview):
            self.out += value
        else:
            self._chunks += [self.out, value]
            self.out = bytearray()

    def chunks(self) -> list[Chunk]:
        """All that was written."""
        return [*self._chunks, self.out] if self.out else self._chunks


def size_of(chunk: Chunk) -> int:
    """Bytes of a chunk."""
    return len(chunk) if isinstance(chunk, bytes | bytearray | memoryview) else chunk.size
