"""Messages to actors of other nodes: each arrives as it was sent, and so does its answer."""

import attrs
import pytest

from dduomq.actors import calls
from dduomq.actors.actor import Reply
from dduomq.actors.coordinator import CoordinatorActor
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
    Take,
)
from dduomq.actors.partition import PartitionActor
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
    Watcher,
)
from dduomq.actors.wheel import WheelActor
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
from dduomq.delay.records import Parked, Target
from dduomq.delay.schedule import make
from dduomq.delay.wheel import Scheduled
from dduomq.errors import CorruptMessage, RecordNotHeld, WireError
from dduomq.groups.queue import ACCEPT, ACQUIRED, Ending, SpanRecord
from dduomq.log.plog import LogDescription, PendingBatch
from dduomq.wire.batch import read_header
from dduomq.wire.peer_calls import COORDINATOR, PARTITION, REPLICA, WHEEL, Call
from dduomq.wire.records import BatchBuilder

ID = f"{7:032x}"
PLACE = (ID, 3)
TARGET = Target("t", ID, 3)
PARKED = Parked(99, -1, -1, TARGET, (5, 0, 9), b"k", None, [("h", b"x"), ("n", None)], b"rule")
SPAN = SpanRecord(1, 4, ACQUIRED, 2, "me", 30_000, 77)
NOW = 1_000.0


def batch():
    builder = BatchBuilder()
    builder.append(1, b"k", b"v", [])
    data = builder.build()
    return PendingBatch(memoryview(data), read_header(data))


TRAVELLERS = [
    (Append(batch=batch(), deadline=NOW + 5, acks=1), Acked(7, 8, 0, "fsync", ((0, "id"),))),
    (FindOffset(timestamp_ms=-1, isolation=1, leader_epoch=4), OffsetAt(-1, 9, 4)),
    (Describe(), PartitionState("online", 3, LogDescription(0, 9, 9, 9, 9, 100, 1, 2), None, True)),
    (Describe(), PartitionState("offline", 3, None, "the disk is gone", False)),
    (Purge(offset=-1), 12),
    (Restore(), None),
    (Park(messages=(PARKED, PARKED), deadline=NOW + 2), ParkedMessages(((99, 1), (99, 2)), True)),
    (Unpark(target=TARGET, origin=(5, 0, 9), pairs=((99, 1),)), None),
    (Confirm(target=TARGET, origin=(5, 0, 9)), None),
    (FindDelayed(pair=(99, 1)), Waiting((99, 1), TARGET)),
    (CancelDelayed(pair=(99, 1)), None),
    (Reschedule(pair=(99, 1), due_ms=500), (500, 3)),
    (ListDelayed(topic=None, after=(-1, -1), limit=10), WaitingMessages((Waiting((99, 1), TARGET),), 4)),
    (PutSchedule(name="s", message=PARKED, replace=True), None),
    (EndSchedule(name="s"), None),
    (PauseSchedule(name="s", is_paused=True), None),
    (ListSchedules(), (Scheduled(make("s", "every 90s", "UTC", "once", 0), (99, 1), TARGET),)),
    (ListGroups(), (GroupOverview("g", "classic", "consumer", "Stable", 3),)),
    (
        NextReads(group="g", member_id="m", places=(PLACE,), begin={PLACE: 4}),
        ReadsFound({PLACE: 4, (ID, 1): None}, ((ID, 2),), "latest", 30_000),
    ),
    (
        Acquire(group="g", member_id="m", takes=(Take(PLACE, 3, range(3, 9), [5, 8]),), most=100),
        Acquired({PLACE: (SPAN,)}, 30_000),
    ),
    (Settle(group="g", member_id="m", parts=((PLACE, (Ending(1, 4, ACCEPT),)),)), Settled({}, 30_000)),
    (ReleaseHeld(group="g", member_id="m", places=(PLACE,)), None),
    (FitQueue(group="g", place=PLACE, read_at=3, start=2, end=9), None),
    (LoseRecord(group="g", place=PLACE, offset=3, reason="damaged"), None),
]


def there(message, reply=None):
    call, payload, _ = calls.encode(message, place_of(message), ID, 3, NOW)
    return calls.decode(call, memoryview(b"".join(payload)), NOW, reply)


def place_of(message):
    kind = calls.NUMBERS[type(message)]
    return next(place for place, kinds in calls.PLACES.items() if kind in kinds)


def test_every_message_is_tried():
    """A message that is put into the table must be tried here."""
    tried = {type(message) for message, _ in TRAVELLERS} | {Fetch}
    assert tried == {kind for kind, _ in calls.KINDS.values()}


@pytest.mark.parametrize(("message", "answer"), TRAVELLERS, ids=lambda one: type(one).__name__)
def test_a_message_and_its_answer_arrive_as_they_were_sent(message, answer):
    reply = Reply()
    came = there(message, reply)
    assert came.reply is reply
    for field in attrs.fields(type(message)):
        if field.name not in {"reply", "size_bytes", "batch"}:
            assert getattr(came, field.name) == getattr(message, field.name), field.name
    if isinstance(message, Append):
        assert bytes(came.batch.view) == bytes(message.batch.view)
    found, payload = calls.encode_answer(answer)
    assert calls.decode_answer(message, found, memoryview(b"".join(payload))) == answer


def test_what_was_refused_arrives_with_its_reason():
    found, _ = calls.encode_answer(Settled({1: RecordNotHeld("another has it")}, 30_000))
    settled = calls.decode_answer(Settle(group="g", member_id="m", parts=()), found, memoryview(b""))
    assert isinstance(settled.refused[1], RecordNotHeld)
    assert settled.refused[1].message == "another has it"


def test_what_was_read_arrives_as_bytes_and_the_lease_is_given_back():
    class Lease(calls.Bytes):
        is_closed = False

        def close(self):
            self.is_closed = True

    lease = Lease(memoryview(b"....records...."))
    fetch = Fetch(offset=3, max_bytes=10, isolation=0, leader_epoch=-1, watcher=Watcher())
    assert there(fetch).watcher is None
    plan = FetchPlan(lease, 4, 7, 9, 8, 1, ((1, 2),), None, next_offset=5)
    answer, payload = calls.encode_answer(plan)
    assert lease.is_closed
    came = calls.decode_answer(fetch, answer, memoryview(b"".join(payload)))
    assert came.lease.read(came.position, came.size) == b"records"
    assert (came.high_watermark, came.last_stable_offset, came.log_start_offset) == (9, 8, 1)
    assert (came.aborted, came.diverging, came.next_offset) == (((1, 2),), None, 5)
    nothing, payload = calls.encode_answer(FetchPlan(None, 0, 0, 9, 9, 0, diverging=(3, 4)))
    came = calls.decode_answer(fetch, nothing, memoryview(b"".join(payload)))
    assert (came.lease, came.size, came.diverging) == (None, 0, (3, 4))


@pytest.mark.parametrize(
    ("kind", "fields", "payload"),
    [
        (99, b"\x80", b""),
        (4, b"\xff", b""),
        (3, b"\x80", b""),
        (3, b"\x83\x00\x00\x61a", b""),
        (5, b"\x81\x61a", b""),
        (1, b"\x81\x01", b"x" * 100),
        (1, b"\x81\x01", b""),
    ],
)
def test_nonsense_is_refused_by_name(kind, fields, payload):
    with pytest.raises((WireError, CorruptMessage)):
        calls.decode(Call(PARTITION, ID, 3, kind, 1_000, fields), memoryview(payload), NOW, Reply())


@pytest.mark.parametrize("message", [message for message, _ in TRAVELLERS], ids=lambda one: type(one).__name__)
def test_no_actor_is_given_what_is_for_actors_of_another_kind(message):
    """It would crash, and take its node along if it is told so again and again."""
    for place, kinds in calls.PLACES.items():
        call, payload, _ = calls.encode(message, place, ID, 3, NOW)
        if call.kind not in kinds:
            with pytest.raises(WireError):
                calls.decode(call, memoryview(b"".join(payload)), NOW, Reply())


def test_every_actor_knows_what_it_may_be_given():
    actors = {PARTITION: PartitionActor, REPLICA: PartitionActor, WHEEL: WheelActor, COORDINATOR: CoordinatorActor}
    for place, kinds in calls.PLACES.items():
        for kind in kinds:
            assert kind not in calls.KINDS or calls.KINDS[kind][0] in actors[place].HANDLERS


def test_a_lease_is_given_back_when_the_file_can_not_be_read():
    class Lease(calls.Bytes):
        is_closed = False

        def read(self, _position, _size):
            raise OSError("the disk is gone")

        def close(self):
            self.is_closed = True

    lease = Lease(memoryview(b""))
    with pytest.raises(OSError, match="gone"):
        calls.encode_answer(FetchPlan(lease, 0, 7, 9, 9, 0))
    assert lease.is_closed


def test_a_batch_that_was_damaged_on_its_way_is_refused():
    call, payload, _ = calls.encode(TRAVELLERS[0][0], PARTITION, ID, 3, NOW)
    data = bytearray(b"".join(payload))
    data[-1] ^= 1
    with pytest.raises(WireError):
        calls.decode(call, memoryview(data), NOW, Reply())
