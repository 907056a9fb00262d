"""What stands at a leader: once for each partition, answered once, to the fetch that has waited longest."""

import pytest
import trio
import trio.testing

from dduomq.actors.partition_messages import FetchPlan
from dduomq.limits import REPLICA_FETCH_PARTS_MAX, REPLICA_FETCHES_WAITING_MAX, REPLICA_STAND_MS
from dduomq.listeners.standing import Line
from dduomq.wire.peer_replication import PeerFetchPart, PeerForgotten

TOPIC_ID = "f" * 32
STAND_S = REPLICA_STAND_MS / 1000


def part(partition, number):
    return PeerFetchPart(TOPIC_ID, partition, 0, 0, -1, 1_000, 0, number)


def asked(*numbers):
    """A line on which each of these has been asked for, as a partition of its own, and a fetch is there."""
    line = Line((1, 1), 7)
    line._present = 1
    line.ask([part(number, number) for number in numbers])
    return line, list(line.to_ask(1.0))


def numbers(stands):
    return [stand.part.number for stand in stands]


def answered(line):
    """What the next answer has."""
    collected = line.collect()
    for stand, _ in collected:
        line.answered(stand)
    return numbers(stand for stand, _ in collected)


class Lease:
    """Must be closed."""

    def __init__(self):
        self.is_closed = False

    def close(self):
        self.is_closed = True


def plan(*, mark=0, lease=None):
    return FetchPlan(lease, 0, 0, mark, 0, 0, log_end_offset=0)


def test_what_is_asked_is_looked_at_once():
    line, stands = asked(1, 2, 3)
    assert numbers(stands) == [1, 2, 3]
    assert numbers(line.to_ask(1.0)) == []


def test_what_is_woken_is_looked_at_again_in_that_order():
    line, (first, _, third) = asked(1, 2, 3)
    for stand in (third, first, third):
        stand.wake()
    assert numbers(line.to_ask(2.0)) == [3, 1]


def test_what_is_answered_stands_no_more():
    line, (first, second) = asked(1, 2)
    line.came(first, plan(), is_news=True)
    assert answered(line) == [1]
    first.wake()
    first.note(plan())
    second.wake()
    assert numbers(line.to_ask(STAND_S * 2)) == [2]
    assert answered(line) == []


def test_a_newer_question_takes_the_place_of_an_older_one():
    line, (old,) = asked(1)
    line.ask([part(1, 5)])
    old.wake()
    assert old.gone
    assert numbers(line.to_ask(2.0)) == [5]


def test_an_older_question_that_comes_late_does_not():
    """Two requests that come together may be begun in any order."""
    line, (new,) = asked(5)
    line.ask([part(5, 4)])
    assert not new.gone
    assert numbers(line.to_ask(2.0)) == []


def test_what_is_forgotten_stands_no_more():
    line, (first, second) = asked(1, 2)
    line.came(first, plan(), is_news=True)
    line.forget([PeerForgotten(TOPIC_ID, 1, 1), PeerForgotten(TOPIC_ID, 2, 1)])
    assert (first.gone, second.gone) == (True, False)
    assert answered(line) == []


def test_what_is_forgotten_before_it_comes_is_not_asked():
    line = Line((1, 1), 7)
    line.forget([PeerForgotten(TOPIC_ID, 1, 8)])
    line.ask([part(1, 8)])
    assert numbers(line.to_ask(1.0)) == []
    line.ask([part(1, 9)])
    assert numbers(line.to_ask(1.0)) == [9]


def test_a_mark_that_has_moved_goes_with_the_next_answer():
    line, (first, second, third) = asked(1, 2, 3)
    line.came(first, plan(mark=-1), is_news=False)  # what the follower knows
    line.came(second, plan(mark=7), is_news=False)
    assert not line.has_news
    line.came(third, plan(), is_news=True)
    assert answered(line) == [3, 2]
    assert answered(line) == []


def test_whatever_is_not_sent_is_closed():
    line, (first, second, third, fourth) = asked(1, 2, 3, 4)
    leases = [Lease() for _ in range(5)]
    line.came(first, plan(lease=leases[0]), is_news=True)
    line.came(first, plan(lease=leases[1]), is_news=True)  # it was asked twice
    assert [lease.is_closed for lease in leases] == [False, True, False, False, False]
    line.ask([part(1, 5)])  # the first answer is not wanted any more
    line.came(second, plan(lease=leases[2]), is_news=True)
    line.forget([PeerForgotten(TOPIC_ID, 2, 2)])
    line.came(third, plan(lease=leases[3]), is_news=True)
    line.end()
    line.came(fourth, plan(lease=leases[4]), is_news=True)
    assert all(lease.is_closed for lease in leases)


def test_nothing_is_kept_that_nobody_is_there_to_take():
    """It is asked again for the next fetch: the connection may be gone for good, and leases hold files."""
    line, leases = Line((1, 1), 7), [Lease(), Lease()]
    line.ask([part(1, 1), part(2, 2)])
    first, second = line.to_ask(1.0)
    line.came(first, plan(lease=leases[0]), is_news=True)
    with line.fetching():
        line.came(second, plan(lease=leases[1]), is_news=True)
        assert [lease.is_closed for lease in leases] == [True, False]
    assert leases[1].is_closed
    assert not line.has_news
    assert numbers(line.to_ask(2.0)) == [1, 2]


def test_what_has_stood_for_long_is_looked_at_again():
    """Should its partition have forgotten it: nothing waits for ever."""
    line, _ = asked(1, 2)
    line.ask([part(3, 3)])
    assert numbers(line.to_ask(1.0 + STAND_S / 2)) == [3]
    assert numbers(line.to_ask(1.0 + STAND_S)) == [1, 2]
    assert numbers(line.to_ask(1.0 + STAND_S)) == []
    assert numbers(line.to_ask(1.0 + STAND_S * 1.5)) == [3]


def test_no_more_than_a_part_is_looked_at_or_answered_at_once():
    count = 2 * REPLICA_FETCH_PARTS_MAX + 1
    line, _ = asked()
    line.ask([part(number, number) for number in range(1, count + 1)])
    taken = [line.to_ask(1.0) for _ in range(4)]
    assert list(map(len, taken)) == [REPLICA_FETCH_PARTS_MAX, REPLICA_FETCH_PARTS_MAX, 1, 0]
    for stands in taken:
        for stand in stands:
            line.came(stand, plan(mark=3), is_news=False)
    assert [len(answered(line)) for _ in range(4)] == [REPLICA_FETCH_PARTS_MAX, REPLICA_FETCH_PARTS_MAX, 1, 0]


def test_a_node_is_heard_on_for_as_long_as_it_waits():
    line, (first, second) = asked(1, 2)
    line.heard_at = 5.0
    line.answered(first)
    line.heard_at = 9.0
    assert (first.heard_at, second.heard_at) == (5.0, 9.0)
    line.end()
    line.heard_at = 20.0
    assert (first.heard_at, second.heard_at) == (5.0, 9.0)


@pytest.fixture
def waiting(nursery):
    """Fetches that wait: who has come back, in order."""
    back = []

    async def wait(line, name, seconds):
        is_over = await line.wait(seconds)
        back.append((name, is_over))
        line.to_ask(1.0)

    async def start(line, *names, seconds=100):
        for name in names:
            nursery.start_soon(wait, line, name, seconds)
            await trio.testing.wait_all_tasks_blocked()

    start.back = back
    return start


async def test_news_go_to_whoever_has_waited_longest(waiting, autojump_clock):
    line, (stand,) = asked(1)
    await waiting(line, "a", "b")
    stand.wake()
    await trio.testing.wait_all_tasks_blocked()
    assert waiting.back == [("a", False)]


async def test_what_is_too_much_for_one_goes_to_the_next(waiting, autojump_clock):
    line = Line((1, 1), 7)
    await waiting(line, "a", "b")
    line.ask([part(number, number) for number in range(1, REPLICA_FETCH_PARTS_MAX + 2)])
    assert len(line.to_ask(1.0)) == REPLICA_FETCH_PARTS_MAX
    await trio.testing.wait_all_tasks_blocked()
    assert waiting.back == [("a", False)]


async def test_who_has_waited_longest_goes_when_too_many_wait(waiting, autojump_clock):
    line, _ = asked(1)
    names = [str(at) for at in range(REPLICA_FETCHES_WAITING_MAX + 2)]
    await waiting(line, *names)
    assert waiting.back == [("0", True), ("1", True)]


async def test_nobody_waits_on_a_line_that_has_ended(waiting, autojump_clock):
    line, (stand,) = asked(1)
    await waiting(line, "a", "b")
    line.end()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(waiting.back) == [("a", True), ("b", True)]
    assert stand.gone
    line.ask([part(2, 2)])  # a fetch that was on its way when the next line began


async def test_nobody_waits_while_there_is_news(waiting, autojump_clock):
    line, (stand,) = asked(1)
    stand.wake()
    await waiting(line, "a")
    assert waiting.back == [("a", False)]


async def test_news_for_one_that_is_cancelled_go_to_the_next(waiting, autojump_clock):
    line, (stand,) = asked(1)
    with trio.move_on_after(1) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.wait, 100)
            await trio.testing.wait_all_tasks_blocked()
            await waiting(line, "b")
            scope.cancel()
            stand.wake()
    await trio.testing.wait_all_tasks_blocked()
    assert waiting.back == [("b", False)]


async def test_who_is_called_is_not_called_for_others_too(waiting, autojump_clock):
    """It may be long before it comes back: it reads from a disk, perhaps."""
    line, (first, second) = asked(1, 2)
    await waiting(line, "a", "b")
    first.wake()
    await trio.testing.wait_all_tasks_blocked()
    second.wake()
    await trio.testing.wait_all_tasks_blocked()
    assert waiting.back == [("a", False), ("b", False)]


async def test_a_fetch_waits_no_longer_than_it_may(waiting, autojump_clock):
    line, _ = asked(1)
    await waiting(line, "a", seconds=2)
    await trio.sleep(3)
    assert waiting.back == [("a", False)]
