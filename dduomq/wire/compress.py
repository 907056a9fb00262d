"""The compressions of Kafka's record batches: gzip, snappy, lz4, zstd.

Always true: decompressing never makes more than the cap it is given; whatever the bytes are, the result is
bytes or a `CorruptMessage`. Snappy is read raw or in xerial frames, as Java clients write it.
"""

import struct
from enum import IntEnum
from typing import Any

from dduomq.errors import CorruptMessage, InvalidConfig
from dduomq.limits import DECOMPRESSED_BYTES_MAX
from dduomq.ports import Buffer

XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEAD_BYTES = 16
_XERIAL_BLOCK_BYTES = 32 * 1024
_I32 = struct.Struct(">i")
_FIRST_GUESS_BYTES = 64 * 1024


class Compression(IntEnum):
    """Numbers as in a batch's attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


def parse(name: str) -> Compression:
    """The compression called `name`; raises `InvalidConfig` that lists them."""
    try:
        return Compression[name.upper()]
    except KeyError:
        raise InvalidConfig(f"compression {name!r} is not known; there are none, gzip, snappy, lz4, zstd") from None


def _codec(kind: Compression) -> Any:
    import cramjam

    return {Compression.GZIP: cramjam.gzip, Compression.LZ4: cramjam.lz4, Compression.ZSTD: cramjam.zstd}[kind]


def compress(kind: Compression, data: Buffer) -> bytes:
    if kind is Compression.NONE:
        return bytes(data)
    if kind is Compression.SNAPPY:
        return _xerial(data)
    return bytes(_codec(kind).compress(data))


def _xerial(data: Buffer) -> bytes:
    import cramjam

    view = memoryview(data)
    parts = [XERIAL_MAGIC, struct.pack(">ii", 1, 1)]
    for at in range(0, len(view), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(view[at : at + _XERIAL_BLOCK_BYTES]))
        parts += [_I32.pack(len(block)), block]
    return b"".join(parts)


def decompress(kind: int, data: Buffer, bytes_max: int = DECOMPRESSED_BYTES_MAX) -> bytes:
    """Raises `CorruptMessage` for bytes that are not of that compression, or would become too many."""
    if kind == Compression.NONE:
        return bytes(data)
    try:
        known = Compression(kind)
    except ValueError:
        raise CorruptMessage(f"compression {kind} is not known") from None
    if known is Compression.SNAPPY:
        return _unsnappy(memoryview(data), bytes_max)
    return _grow_into(known, data, bytes_max)


def _grow_into(kind: Compression, data: Buffer, bytes_max: int) -> bytes:
    """Decompress into a buffer that is made larger until the data fits, or the cap is reached."""
    codec = _codec(kind)
    room = min(max(_FIRST_GUESS_BYTES, 4 * len(data)), bytes_max)
    while True:
        buffer = bytearray(room)
        try:
            size = codec.decompress_into(data, buffer)
        except Exception as error:  # cramjam raises one class for bad data and too small a buffer
            if room >= bytes_max:
                raise CorruptMessage(
                    f"the batch is not {kind.name.lower()}, or becomes more than {bytes_max} bytes"
                ) from error
            room = min(room * 4, bytes_max)
            continue
        return bytes(memoryview(buffer)[:size])


def _unsnappy(view: memoryview, bytes_max: int) -> bytes:
    if bytes(view[:8]) != XERIAL_MAGIC:
        return _unsnappy_raw(view, bytes_max)
    parts: list[bytes] = []
    at, total = _XERIAL_HEAD_BYTES, 0
    while at < len(view):
        if len(view) - at < _I32.size:
            raise CorruptMessage("a snappy frame ends in the middle")
        (size,) = _I32.unpack_from(view, at)
        at += _I32.size
        if not 0 <= size <= len(view) - at:
            raise CorruptMessage("a snappy block reaches beyond its frame")
        parts.append(_unsnappy_raw(view[at : at + size], bytes_max - total))
        total += len(parts[-1])
        at += size
    return b"".join(parts)


def _unsnappy_raw(view: memoryview, bytes_max: int) -> bytes:
    import cramjam

    try:
        if cramjam.snappy.decompress_raw_len(view) > bytes_max:
            raise CorruptMessage(f"a snappy block becomes more than {bytes_max} bytes")
        return bytes(cramjam.snappy.decompress_raw(view))
    except CorruptMessage:
        raise
    except Exception as error:  # cramjam's one class for everything
        raise CorruptMessage(f"not snappy: {error}") from error
