"""The native protocol's words about delayed messages: frozen values, coded by `dduomq.wire.native`.

Always true: an id names one message as long as it waits; another time is another id.
"""

import attrs


@attrs.frozen
class ListDelayed:
    """The earliest first. `topic` None: of all topics. `after`: only those behind that id, "" for all."""

    topic: str | None = None
    limit: int = 100
    after: str = ""


@attrs.frozen
class DelayedMessage:
    """Times are wall-clock milliseconds since 1970."""

    delay_id: str
    due_ms: int
    topic: str
    partition: int


@attrs.frozen
class DelayedMessages:
    """`count`: how many wait on this node, whatever was asked for."""

    messages: tuple[DelayedMessage, ...]
    count: int


@attrs.frozen
class CancelDelayed:
    delay_id: str


@attrs.frozen
class RescheduleDelayed:
    """It comes at that time, under another id."""

    delay_id: str
    deliver_at_ms: int


@attrs.frozen
class Rescheduled:
    delay_id: str
