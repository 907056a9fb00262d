"""Messages that an actor may get from another node: what they are called on the wire, and what answers them.

Pure. Always true: a message arrives as it was sent, but for its reply, which is the link's, and its deadline, which
travels as the time that is left; a batch of records and what was read travel as raw bytes.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import cbor2

from dduomq.actors.actor import Message, Reply
from dduomq.actors.coordinator_messages import GroupOverview, ListGroups
from dduomq.actors.coordinator_queue_messages import (
    Acquire,
    Acquired,
    FitQueue,
    LoseRecord,
    NextReads,
    ReadsFound,
    ReleaseHeld,
    Settle,
    Settled,
)
from dduomq.actors.partition_messages import (
    Acked,
    Append,
    Describe,
    Fetch,
    FetchPlan,
    FindOffset,
    OffsetAt,
    PartitionState,
    Purge,
    Restore,
)
from dduomq.actors.wheel_messages import (
    CancelDelayed,
    Confirm,
    EndSchedule,
    FindDelayed,
    ListDelayed,
    ListSchedules,
    Park,
    ParkedMessages,
    PauseSchedule,
    PutSchedule,
    Reschedule,
    Unpark,
    Waiting,
    WaitingMessages,
)
from dduomq.delay.records import Pair
from dduomq.delay.wheel import Scheduled
from dduomq.errors import WireError
from dduomq.log.plog import PendingBatch
from dduomq.ports import Buffer
from dduomq.wire.batch import is_whole, read_header
from dduomq.wire.peer_calls import COORDINATOR, PARTITION, REPLICA, WHEEL, Call, CallAnswer
from dduomq.wire.plain import read_as, to_plain

# Numbers on the wire, never reused: (the message, the type of its answer). What kind of actor gets them says `PLACES`.
KINDS: dict[int, tuple[type[Message], Any]] = {
    1: (Append, Acked),
    2: (Fetch, FetchPlan),
    3: (FindOffset, OffsetAt),
    4: (Describe, PartitionState),
    5: (Purge, int),
    6: (Restore, None),
    20: (Park, ParkedMessages),
    21: (Unpark, None),
    22: (Confirm, None),
    23: (FindDelayed, Waiting),
    24: (CancelDelayed, None),
    25: (Reschedule, Pair),
    26: (ListDelayed, WaitingMessages),
    27: (PutSchedule, None),
    28: (EndSchedule, None),
    29: (PauseSchedule, None),
    30: (ListSchedules, tuple[Scheduled, ...]),
    40: (ListGroups, tuple[GroupOverview, ...]),
    41: (NextReads, ReadsFound),
    42: (Acquire, Acquired),
    43: (Settle, Settled),
    44: (ReleaseHeld, None),
    45: (FitQueue, None),
    46: (LoseRecord, None),
}
NUMBERS = {message: number for number, (message, _) in KINDS.items()}
PLACES = {PARTITION: range(1, 20), REPLICA: range(1, 20), WHEEL: range(20, 40), COORDINATOR: range(40, 60)}
NOTICES = (Unpark, Confirm, ReleaseHeld, FitQueue, LoseRecord)  # nobody waits for an answer
NOT_CARRIED = {"reply", "size_bytes", "deadline", "batch", "watcher"}
NO_TIMEOUT_S = 30.0  # of a message that has no deadline of its own


class Bytes:
    """A `Lease` of what came over a link."""

    __slots__ = ("_view",)

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def fileno(self) -> int:
        return -1

    def read(self, position: int, size: int) -> bytes:
        return bytes(self._view[position : position + size])

    def is_resident(self, _position: int, _size: int) -> bool:
        return True

    def close(self) -> None:
        """It needs nothing."""


def _carried(kind: type) -> list["attrs.Attribute[Any]"]:
    return [field for field in attrs.fields(kind) if field.name not in NOT_CARRIED]


def encode(
    message: Message, place: int, topic_id: str, number: int, now: float
) -> tuple[Call, Sequence[Buffer], float]:
    """The call, its payload, and how many seconds there are for it."""
    kind = type(message)
    fields = [to_plain(getattr(message, field.name)) for field in _carried(kind)]
    timeout_s = min(max(getattr(message, "deadline", now + NO_TIMEOUT_S) - now, 0.0), NO_TIMEOUT_S)
    payload: Sequence[Buffer] = (message.batch.view,) if isinstance(message, Append) else ()
    call = Call(place, topic_id, number, NUMBERS[kind], int(timeout_s * 1000), cbor2.dumps(fields))
    return call, payload, timeout_s


def decode(call: Call, payload: memoryview, now: float, reply: Reply[Any]) -> Message:
    """The message of a call. Raises `WireError`, `CorruptMessage` for a batch that is not whole."""
    if call.kind not in KINDS or call.kind not in PLACES.get(call.place, ()):
        raise WireError(f"a message of kind {call.kind} to an actor of kind {call.place} is not known here")
    kind = KINDS[call.kind][0]
    fields = _carried(kind)
    plain = _loads(call.fields)
    if type(plain) is not list or len(plain) < len(fields):
        raise WireError(f"{kind.__name__} needs {len(fields)} fields")
    said = {field.name: read_as(field.type, one) for field, one in zip(_resolved(kind, fields), plain, strict=False)}
    names = {field.name for field in attrs.fields(kind)}
    if "deadline" in names:
        said["deadline"] = now + call.timeout_ms / 1000
    if "watcher" in names:
        said["watcher"] = None
    if kind is Append:
        said["batch"] = _batch(payload)
    return kind(**said, reply=reply, size_bytes=len(payload) + len(call.fields))


def _resolved(kind: type, fields: list["attrs.Attribute[Any]"]) -> list["attrs.Attribute[Any]"]:
    attrs.resolve_types(kind)
    return [getattr(attrs.fields(kind), field.name) for field in fields]


def _batch(payload: memoryview) -> PendingBatch:
    header = read_header(payload)
    if header.size != len(payload) or not is_whole(payload, 0, header):
        raise WireError("a batch that another node sent is not whole")
    return PendingBatch(payload, header)


def _loads(data: bytes) -> object:
    try:
        return cbor2.loads(data)
    except Exception as error:  # cbor2 raises many kinds; all mean the same here
        raise WireError(f"a call is not CBOR: {type(error).__name__}") from None


def encode_answer(value: Any) -> tuple[CallAnswer, Sequence[Buffer]]:
    """The answer; of a plan to read, what is read, and the lease is given back."""
    if not isinstance(value, FetchPlan):
        return CallAnswer(cbor2.dumps(to_plain(value))), ()
    try:
        data = b"" if value.lease is None else value.lease.read(value.position, value.size)
    finally:
        value.close()
    marks = [value.high_watermark, value.last_stable_offset, value.log_start_offset, value.next_offset]
    return CallAnswer(cbor2.dumps([*marks, to_plain(value.aborted), to_plain(value.diverging)])), (data,)


def decode_answer(message: Message, answer: CallAnswer, payload: memoryview) -> Any:
    """What the actor answered. Raises `WireError`."""
    hint = KINDS[NUMBERS[type(message)]][1]
    plain = _loads(answer.fields)
    if hint is None:
        return None
    if hint is not FetchPlan:
        return read_as(hint, plain)
    types = tuple[int, int, int, int, tuple[tuple[int, int], ...], tuple[int, int] | None]
    high, stable, start, next_offset, aborted, diverging = read_as(types, plain)
    lease = Bytes(payload) if len(payload) else None
    return FetchPlan(
        lease, 0, len(payload), high, stable, start, aborted, diverging, is_resident=True, next_offset=next_offset
    )
