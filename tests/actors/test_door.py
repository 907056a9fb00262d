"""Doors: what is put in arrives once and in order, wherever the actor is, and whoever waits is let on."""

import pytest
import trio

from dduomq.actors import calls
from dduomq.actors.actor import Mailbox, Reply, ask
from dduomq.actors.door import Corridor, Door
from dduomq.actors.partition_messages import Acked, Append, Describe, PartitionState
from dduomq.actors.wheel_messages import Unpark
from dduomq.cluster.ports import PeerNotReached
from dduomq.delay.records import Target
from dduomq.errors import LeaderNotAvailable
from dduomq.limits import CALLS_PER_DOOR_MAX, MAILBOX_MESSAGES_MAX
from dduomq.log.plog import PendingBatch
from dduomq.testing.clock import SimClock
from dduomq.wire.batch import read_header
from dduomq.wire.peer_calls import PARTITION
from dduomq.wire.records import BatchBuilder

ID = f"{7:032x}"
STATE = PartitionState("online", 3, None, None, True)


class FarNode:
    """The other node: answers when it may, and says what has come."""

    def __init__(self):
        self.came = []
        self.may_answer = trio.Event()
        self.error = None

    def link(self, _node):
        return self

    async def request(self, call, payload, *, timeout_s):
        message = calls.decode(call, memoryview(b"".join(payload)), trio.current_time(), Reply())
        self.came.append(message)
        with trio.fail_after(timeout_s):
            await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        value = Acked(len(self.came), 0, 0, "fsync") if isinstance(message, Append) else STATE
        answer, data = calls.encode_answer(value)
        return answer, memoryview(b"".join(data))


class Hall:
    """A door, and both sides of it. `where` is what the door finds."""

    def __init__(self, nursery):
        self.far = FarNode()
        self.near = Mailbox("near")
        self.where = 2
        self.door = Door("t-0", Corridor(self.far, SimClock(), nursery.start_soon), PARTITION, ID, 0, self._find)

    def _find(self):
        return self.where

    def came_near(self):
        return self.near._take(MAILBOX_MESSAGES_MAX)


@pytest.fixture
async def hall(autojump_clock, nursery):
    return Hall(nursery)


def append(text, reply=None):
    builder = BatchBuilder()
    builder.append(1, None, text.encode(), [])
    data = builder.build()
    batch = PendingBatch(memoryview(data), read_header(data))
    return Append(batch=batch, deadline=trio.current_time() + 20, reply=reply)


def describe():
    return Describe(reply=Reply())


async def test_whoever_finds_too_much_under_way_waits_until_there_is_room(hall, nursery, autojump_clock):
    """Nobody waits for ever: each answer lets the next one in."""
    for _ in range(CALLS_PER_DOOR_MAX):
        assert hall.door.offer(describe())
    await trio.testing.wait_all_tasks_blocked()
    assert not hall.door.offer(describe())
    last = describe()
    nursery.start_soon(hall.door.put, last)
    await trio.testing.wait_all_tasks_blocked()
    assert len(hall.far.came) == CALLS_PER_DOOR_MAX
    hall.far.may_answer.set()
    with trio.fail_after(5):
        assert await last.reply.wait() == STATE


async def test_whoever_finds_the_local_mailbox_full_waits_for_that(hall, nursery, autojump_clock):
    hall.where = hall.near
    for _ in range(MAILBOX_MESSAGES_MAX):
        assert hall.door.offer(describe())
    last = describe()
    nursery.start_soon(hall.door.put, last)
    await trio.testing.wait_all_tasks_blocked()
    assert last not in hall.came_near()
    await trio.testing.wait_all_tasks_blocked()
    assert hall.came_near() == [last]


async def test_who_waits_for_room_goes_where_the_actor_has_moved_to(hall, nursery, autojump_clock):
    for _ in range(CALLS_PER_DOOR_MAX):
        hall.door.offer(describe())
    last = describe()
    nursery.start_soon(hall.door.put, last)
    await trio.testing.wait_all_tasks_blocked()
    hall.where = hall.near
    hall.far.may_answer.set()
    await trio.testing.wait_all_tasks_blocked()
    assert hall.came_near() == [last]


async def test_appends_stay_in_order_when_the_partition_comes_to_be_led_here(hall, autojump_clock):
    """One is at the other node, one waits behind it: what comes now goes behind both."""
    replies = [Reply() for _ in range(3)]
    appends = [append(text, reply) for text, reply in zip("abc", replies, strict=True)]
    assert hall.door.offer(appends[0])
    assert hall.door.offer(appends[1])
    await trio.testing.wait_all_tasks_blocked()
    hall.where = hall.near
    assert hall.door.offer(appends[2])
    await trio.testing.wait_all_tasks_blocked()
    assert hall.came_near() == []
    hall.far.may_answer.set()
    assert (await replies[0].wait()).base_offset == 1
    await trio.testing.wait_all_tasks_blocked()
    assert hall.came_near() == appends[1:]


async def test_what_may_never_be_refused_is_not_where_the_actor_is_here(hall, autojump_clock):
    """To take back what was parked is a completion: no full mailbox holds it up, and none loses it."""
    hall.where = hall.near
    for _ in range(MAILBOX_MESSAGES_MAX):
        hall.door.offer(describe())
    back = Unpark(target=Target("t", ID, 0), origin=(5, 0, 9), pairs=((99, 1),))
    hall.door.post(back)
    assert hall.came_near()[0] is back


async def test_errors_of_the_way_and_of_a_missing_leader_are_told(hall, autojump_clock):
    hall.far.error = PeerNotReached("node 2 is down")
    hall.far.may_answer.set()
    with pytest.raises(PeerNotReached):
        await ask(hall.door, lambda reply: Describe(reply=reply))
    hall.where = None
    with pytest.raises(LeaderNotAvailable):
        await ask(hall.door, lambda reply: Describe(reply=reply))
