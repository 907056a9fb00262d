"""Frames of the native protocol: where one ends and the next begins.

    u32 length (of what follows) · u32 header length · header (one CBOR array) · payload (raw bytes)

A connection opens with eight bytes of `MAGIC`, which read as a Kafka frame length would be absurd, so that
one port serves both. Always true: a length is checked before a byte is allocated for it.
"""

import struct

import cbor2

from dduomq.errors import FrameTooLarge, WireError
from dduomq.ports import Buffer

MAGIC = b"DDUOMQ\x00\x01"
PREFIX = struct.Struct(">II")
PREFIX_BYTES = PREFIX.size


def read_prefix(view: Buffer, frame_bytes_max: int) -> tuple[int, int]:
    """(header length, payload length) of the frame whose first eight bytes are in `view`."""
    length, header_length = PREFIX.unpack_from(view)
    if length > frame_bytes_max:
        raise FrameTooLarge(f"a frame announces {length} bytes, {frame_bytes_max} is the most here")
    if header_length + 4 > length:
        raise WireError(f"a frame of {length} bytes can't have a header of {header_length}")
    return header_length, length - 4 - header_length


def read_header(data: Buffer) -> list[object]:
    """The CBOR array of a frame's header; raises `WireError` for anything else."""
    try:
        value = cbor2.loads(data)
    except Exception as error:  # cbor2 raises many kinds on hostile bytes; all mean the same here
        raise WireError(f"a frame header is not CBOR: {type(error).__name__}") from None
    if not isinstance(value, list):
        raise WireError("a frame header must be a CBOR array")
    return value


def write(header: list[object], payload_bytes: int = 0) -> bytes:
    """Prefix and header of a frame; `payload_bytes` of payload must follow it on the wire."""
    encoded = cbor2.dumps(header)
    return PREFIX.pack(4 + len(encoded) + payload_bytes, len(encoded)) + encoded
