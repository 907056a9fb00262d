"""What classic consumers say of themselves, and are told, by Kafka's `ConsumerProtocol`: as far as a broker looks."""

from dduomq.errors import WireError
from dduomq.wire.kafka.primitives import Reader


def topics_of(metadata: bytes) -> list[str]:
    """The topics that a member subscribes to; none if its metadata are not a consumer's."""
    source = Reader(memoryview(metadata))
    try:
        source.int16()
        return [source.text(source.int16()) for _ in range(source.count(max(source.int32(), 0)))]
    except WireError:
        return []


def assignment_of(data: bytes) -> dict[str, list[int]]:
    """`ConsumerProtocolAssignment`: the partitions of each topic; none if it is not a consumer's."""
    source = Reader(memoryview(data))
    found: dict[str, list[int]] = {}
    try:
        source.int16()
        for _ in range(source.count(max(source.int32(), 0))):
            name = source.text(source.int16())
            found[name] = [source.int32() for _ in range(source.count(max(source.int32(), 0)))]
    except WireError:
        return {}
    return found
