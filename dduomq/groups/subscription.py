"""What classic consumers say of themselves, and are told, by Kafka's `ConsumerProtocol`: as far as a broker looks.

Always true: what is not a consumer's reads as None, or as nothing; a broker never fails on what members send each
other.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import attrs

from dduomq.errors import WireError
from dduomq.wire.kafka.primitives import Reader, Writer

OWNED_FROM = 1  # the version that tells what the member has


@attrs.frozen
class Subscription:
    """`owned`: (topic, partition) that the member has when it joins; nothing, where it gives all up before."""

    version: int
    topics: tuple[str, ...]
    owned: frozenset[tuple[str, int]]


def read_subscription(metadata: bytes) -> Subscription | None:
    """None if a member's metadata are not a consumer's."""
    source = Reader(memoryview(metadata))
    try:
        version = source.int16()
        topics = tuple(source.text(source.int16()) for _ in range(source.count(max(source.int32(), 0))))
    except WireError:
        return None
    owned: dict[str, list[int]] = {}
    with suppress(WireError):
        source.take(max(source.int32(), 0))
        owned = _read_parts(source) if version >= OWNED_FROM else {}
    return Subscription(version, topics, frozenset((topic, at) for topic, parts in owned.items() for at in parts))


def topics_of(metadata: bytes) -> Sequence[str]:
    """The topics that a member subscribes to; none if its metadata are not a consumer's."""
    found = read_subscription(metadata)
    return () if found is None else found.topics


def read_assignment(data: bytes) -> dict[str, list[int]]:
    """The partitions of each topic; none if it is not a consumer's."""
    source = Reader(memoryview(data))
    try:
        source.int16()
        return _read_parts(source)
    except WireError:
        return {}


def _read_parts(source: Reader) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for _ in range(source.count(max(source.int32(), 0))):
        topic = source.text(source.int16())
        found[topic] = [source.int32() for _ in range(source.count(max(source.int32(), 0)))]
    return found


def write_assignment(parts: Mapping[str, Sequence[int]]) -> bytes:
    """Version 0, which every client reads."""
    out = Writer()
    out.int16(0)
    out.int32(len(parts))
    for topic, partitions in parts.items():
        name = topic.encode()
        out.int16(len(name))
        out.out += name
        out.int32(len(partitions))
        for partition in partitions:
            out.int32(partition)
    out.int32(-1)  # no user data
    return bytes(out.out)
