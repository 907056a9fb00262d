"""What a classic consumer says about itself: `ConsumerProtocolSubscription`, as far as a broker looks into it."""

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
