"""What may be said to a wheel, and what it answers: see the table in `dduomq.actors.wheel`."""

import attrs

from dduomq.actors.actor import Message
from dduomq.actors.partition_messages import Acked, FetchPlan
from dduomq.delay.records import Pair, Parked, Target


@attrs.frozen(kw_only=True)
class Park(Message):
    """All go to one target and have one origin; they are parked together, once. `deadline`: monotonic."""

    messages: tuple[Parked, ...]
    deadline: float = float("inf")


@attrs.frozen(kw_only=True)
class Unpark(Message):
    """The batch that these came in has been refused: they were never sent."""

    target: Target
    origin: tuple[int, int, int]
    pairs: tuple[Pair, ...]


@attrs.frozen(kw_only=True)
class Confirm(Message):
    """The batch that they came in is stored."""

    target: Target
    origin: tuple[int, int, int]


@attrs.frozen(kw_only=True)
class FindDelayed(Message):
    pair: Pair


@attrs.frozen(kw_only=True)
class CancelDelayed(Message):
    pair: Pair


@attrs.frozen(kw_only=True)
class Reschedule(Message):
    """Another time for a message; it gets another id."""

    pair: Pair
    due_ms: int


@attrs.frozen(kw_only=True)
class ListDelayed(Message):
    """The earliest first, from behind `after` on; `topic` None: all topics."""

    topic: str | None
    after: Pair
    limit: int


@attrs.frozen(kw_only=True)
class PutSchedule(Message):
    """`message` is its first one."""

    name: str
    message: Parked
    replace: bool


@attrs.frozen(kw_only=True)
class EndSchedule(Message):
    name: str


@attrs.frozen(kw_only=True)
class PauseSchedule(Message):
    """Pause it, or go on with the next time."""

    name: str
    is_paused: bool


@attrs.frozen(kw_only=True)
class ListSchedules(Message):
    pass


@attrs.frozen
class ParkedMessages:
    """`pairs`: the id of each message. `is_new` False: this very batch had been parked before.

    Of what was handed over before, no ids are known.
    """

    pairs: tuple[Pair, ...]
    is_new: bool


@attrs.frozen
class Waiting:
    pair: Pair
    target: Target


@attrs.frozen
class WaitingMessages:
    """`count` of all that wait here, whatever was asked for."""

    messages: tuple[Waiting, ...]
    count: int


@attrs.frozen(kw_only=True)
class HeadFound(Message):
    """Where the log's first piece is. `serial` is the cleaning's."""

    serial: int
    plan: FetchPlan | None
    error: BaseException | None


@attrs.frozen(kw_only=True)
class HeadRead(Message):
    serial: int
    result: object


@attrs.frozen(kw_only=True)
class Sent(Message):
    """What a target said to a batch. `serial` is the sending's."""

    target: Target
    serial: int
    acked: Acked | None
    error: BaseException | None
