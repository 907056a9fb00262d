"""What stands at a leader: once for each partition, answered once, to the fetch that has waited longest."""

import pytest
import trio
import trio.testing

from dduomq.limits import REPLICA_FETCH_PARTS_MAX, REPLICA_FETCHES_WAITING_MAX, REPLICA_STAND_MS
from dduomq.listeners.standing import Line
from dduomq.wire.peer_replication import PeerFetchPart

TOPIC_ID = "f" * 32
STAND_S = REPLICA_STAND_MS / 1000


def part(partition, number):
    return PeerFetchPart(TOPIC_ID, partition, 0, 0, -1, 1_000, 0, number)


def asked(*numbers):
    """A line on which each of these has been asked for, as a partition of its own, and has no news."""
    line = Line((1, 1), 7)
    line.ask([part(number, number) for number in numbers])
    stands = list(line.take_woken(0.0))
    return line, stands


def numbers(stands):
    return [stand.part.number for stand in stands]


def test_what_is_asked_is_looked_at_once():
    line, stands = asked(1, 2, 3)
    assert numbers(stands) == [1, 2, 3]
    assert numbers(line.take_woken(0.0)) == []


def test_what_has_news_is_looked_at_again_in_the_order_of_the_news():
    line, (first, _, third) = asked(1, 2, 3)
    for stand in (third, first, third):
        stand.wake()
    assert numbers(line.take_woken(1.0)) == [3, 1]


def test_what_is_answered_stands_no_more():
    line, (first, second) = asked(1, 2)
    line.answered(first)
    first.wake()
    first.note()
    second.wake()
    assert numbers(line.take_woken(1.0)) == [2]
    assert numbers(line.take_noted(STAND_S * 2)) == [2]


def test_a_newer_question_takes_the_place_of_an_older_one():
    line, (old,) = asked(1)
    line.ask([part(1, 5)])
    old.wake()
    assert old.gone
    assert numbers(line.take_woken(1.0)) == [5]


def test_an_older_question_that_comes_late_does_not():
    """Two requests that come together may be begun in any order."""
    line, (new,) = asked(5)
    line.ask([part(5, 4)])
    assert not new.gone
    assert numbers(line.take_woken(1.0)) == []


def test_what_is_noted_goes_with_the_next_answer_and_what_was_taken_is_not_noted_any_more():
    line, (first, second) = asked(1, 2)
    first.note()
    second.note()
    second.wake()
    assert numbers(line.take_woken(1.0)) == [2]
    assert numbers(line.take_noted(1.0)) == [1]
    assert numbers(line.take_noted(1.0)) == []


def test_what_has_stood_for_long_is_looked_at_again():
    """Should its partition have forgotten it: nothing waits for ever."""
    line, _ = asked(1, 2)
    line.ask([part(3, 3)])
    line.take_woken(STAND_S / 2)
    assert numbers(line.take_noted(STAND_S)) == [1, 2]
    assert numbers(line.take_noted(STAND_S)) == []
    assert numbers(line.take_noted(STAND_S * 1.5)) == [3]


def test_no_more_than_a_part_is_looked_at_at_once():
    count = 2 * REPLICA_FETCH_PARTS_MAX + 1
    line = Line((1, 1), 7)
    line.ask([part(number, number) for number in range(count)])
    assert [len(line.take_woken(0.0)) for _ in range(4)] == [REPLICA_FETCH_PARTS_MAX, REPLICA_FETCH_PARTS_MAX, 1, 0]
    assert [len(line.take_noted(STAND_S)) for _ in range(4)] == [REPLICA_FETCH_PARTS_MAX, REPLICA_FETCH_PARTS_MAX, 1, 0]


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
        line.take_woken(0.0)

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
    line.ask([part(number, number) for number in range(REPLICA_FETCH_PARTS_MAX + 1)])
    assert len(line.take_woken(0.0)) == REPLICA_FETCH_PARTS_MAX
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
    second.wake()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(waiting.back) == [("a", False), ("b", False)]


async def test_a_fetch_waits_no_longer_than_it_may(waiting, autojump_clock):
    line, _ = asked(1)
    await waiting(line, "a", seconds=2)
    await trio.sleep(3)
    assert waiting.back == [("a", False)]
