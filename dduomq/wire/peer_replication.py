"""How a node fetches what it keeps replicas of from the node that leads them. The records are the frame's payload.

What a fetch asks for stands until there is news of it, and is answered then: to that fetch, or to a later one of the
same `line`. So a fetch names only what has changed, as in Kafka's fetch sessions (KIP-227).
"""

from collections.abc import Mapping

import attrs


@attrs.frozen
class PeerFetchPart:
    """`offset`: all before it is safe with the follower; `last_epoch`: the leader epoch of its last record, or -1.

    `log_start_offset`: where the follower's own log begins, whatever happens to it. `number`: the answer has it, too;
    `high_watermark`: what the follower has been told.
    """

    topic_id: str
    partition: int
    leader_epoch: int
    offset: int
    last_epoch: int
    max_bytes: int
    log_start_offset: int = 0
    number: int = 0
    high_watermark: int = -1


@attrs.frozen
class PeerForgotten:
    """What was asked for by that number, or before, is not waited for any more."""

    topic_id: str
    partition: int
    number: int


@attrs.frozen
class PeerFetch:
    """`node_epoch`: the version of the follower's key in the metadata. The parts that come first are served first.

    `line`: a higher one makes what was asked for with a lower one void; it stands for one `node_epoch`.
    """

    node_epoch: int
    max_wait_ms: int
    max_bytes: int
    parts: tuple[PeerFetchPart, ...]
    line: int = 0
    forgotten: tuple[PeerForgotten, ...] = ()


@attrs.frozen
class PeerFetchedPart:
    """`size` bytes of the payload, in the order of the parts; or an error. `number`: of what is answered.

    `diverging_epoch`, where it is not -1, and its `diverging_end`: up to there, at most, the two logs are the same.
    """

    code: int
    message: str | None
    high_watermark: int = -1
    log_start_offset: int = -1
    log_end_offset: int = -1
    size: int = 0
    diverging_epoch: int = -1
    diverging_end: int = -1
    number: int = 0


@attrs.frozen
class PeerFetched:
    """`parts`: those of which there is news, whichever fetch has asked for them."""

    parts: tuple[PeerFetchedPart, ...]


REQUESTS: Mapping[int, tuple[type, type | None]] = {120: (PeerFetch, PeerFetched)}
