"""A message to an actor of another node, and its answer, as the peers' protocol carries them.

What a message says travels as a CBOR array of its fields (`plain`), records as raw bytes behind it. Which numbers mean
which messages stands in `dduomq/actors/calls.py`.
"""

import attrs

PARTITION, WHEEL, COORDINATOR, REPLICA = 1, 2, 3, 4  # what kind of actor is meant; a replica: whoever leads


@attrs.frozen
class Call:
    """To be done within `timeout_ms`. `number` of the wheel, the coordinator, or a partition of `topic_id`."""

    place: int
    topic_id: str
    number: int
    kind: int
    timeout_ms: int
    fields: bytes


@attrs.frozen
class CallAnswer:
    fields: bytes


REQUESTS = {130: (Call, CallAnswer)}
