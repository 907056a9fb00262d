"""A message to an actor of another node, and its answer, as the peers' protocol carries them.

What a message says travels as a CBOR array of its fields (`plain`), records as raw bytes behind it. Which numbers mean
which messages stands in `dduomq/actors/calls.py`.
"""

import attrs

PARTITION, WHEEL, COORDINATOR = 1, 2, 3  # what kind of actor is meant


@attrs.frozen
class Call:
    """`number` of the partition (of `topic_id`), wheel or coordinator; it is to be done within `timeout_ms`."""

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
