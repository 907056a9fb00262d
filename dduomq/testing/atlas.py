"""The fault atlas: which bits may flip, so that one node without a replica can still keep its promises.

A batch whose bits the disk has changed can't be mended here. What must hold is that it is found, reported and
never served, and that nothing else suffers. So bits flip only where that can be told from a torn write: in a
batch on the disk that has a whole one behind it. Hints, which can be made again, may be hit anywhere.
"""

from collections.abc import Iterator
from random import Random

import attrs

from dduomq.errors import CorruptMessage
from dduomq.log.segment import INDEX, LOG, SNAPSHOT, TIME_INDEX
from dduomq.testing.disk import Platter
from dduomq.wire.batch import HEADER_BYTES, BatchHeader, crc_of, read_header

LEADER_EPOCH = range(12, 16)  # where it lies in a batch
HINTS = (INDEX, TIME_INDEX, SNAPSHOT)


@attrs.frozen
class Damage:
    """The offsets of a batch that the disk has changed."""

    topic: str
    partition: int
    first: int
    last: int


def damage_log(platter: Platter, topics: tuple[str, ...], rng: Random) -> Damage | None:
    """Flip a bit of some batch; which one it was, None where no log has a batch that may be hit."""
    choices = [
        (path, position, header)
        for path in sorted(platter.files.inodes)
        if path.endswith(LOG) and _partition_of(path)[0] in topics
        for position, header in _may_be_hit(bytes(platter.files.inodes[path].durable))
    ]
    if not choices:
        return None
    path, position, header = choices[rng.randrange(len(choices))]
    at = rng.randrange(header.size)
    if at in LEADER_EPOCH:  # outside the CRC: nobody can tell
        at += len(LEADER_EPOCH) + 1
    platter.flip(path, position + at, rng.randrange(8))
    return Damage(*_partition_of(path), header.base_offset, header.last_offset)


def damage_hint(platter: Platter, rng: Random) -> str | None:
    """Flip a bit of an index or a producer snapshot; its path."""
    inodes = platter.files.inodes
    paths = [path for path in sorted(inodes) if path.endswith(HINTS) and inodes[path].durable]
    if not paths:
        return None
    path = paths[rng.randrange(len(paths))]
    platter.flip(path, rng.randrange(len(inodes[path].durable)), rng.randrange(8))
    return path


def _partition_of(path: str) -> tuple[str, int]:
    directory = path.split("/")[-2]
    topic, _, partition = directory.rpartition("-")
    return topic, int(partition) if partition.isdigit() else -1


def _may_be_hit(data: bytes) -> Iterator[tuple[int, BatchHeader]]:
    """(position, header) of the whole batches right before another whole one."""
    before: tuple[int, BatchHeader] | None = None
    position = 0
    while len(data) - position >= HEADER_BYTES:
        try:
            header = read_header(data, position)
        except CorruptMessage:
            return
        if position + header.size > len(data):
            return
        is_whole = crc_of(memoryview(data), position, header.size) == header.crc
        if is_whole and before is not None:
            yield before
        before = (position, header) if is_whole else None
        position += header.size
