"""Catching up by small pieces: never faster than allowed, and no slower; all get their turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dduomq.limits import REPLICA_PART_BYTES_MAX, REPLICA_PART_BYTES_MIN
from dduomq.replica.catch_up import CatchUp


class Link:
    """Counts how often it is woken."""

    woken = 0

    def wake(self):
        self.woken += 1


def test_without_a_limit_it_never_waits():
    catch_up, link = CatchUp(None), Link()
    for _ in range(100):
        asked = catch_up.take(link)
        assert asked is not None
        catch_up.answered(asked, 10**9)
    assert catch_up.piece_bytes == REPLICA_PART_BYTES_MAX


@pytest.mark.parametrize(
    ("rate", "piece"), [(1, REPLICA_PART_BYTES_MIN), (10**7, 250_000), (10**12, REPLICA_PART_BYTES_MAX)]
)
def test_a_piece_is_a_small_part_of_a_second(rate, piece):
    assert CatchUp(rate).piece_bytes == piece


@given(st.integers(1_000_000, 100_000_000), st.lists(st.tuples(st.floats(0, 0.1), st.integers(0, 2 * 1024**2))))
def test_never_faster_than_allowed(rate, turns):
    """Whatever comes, and whenever it is asked for: in any time the rate, the piece at its beginning, and the last."""
    catch_up, link, now, got, last = CatchUp(rate), Link(), 0.0, 0, 0
    for pause, size in turns:
        now += pause
        catch_up.pass_time(now)
        asked = catch_up.take(link)
        if asked is not None:
            assert got <= rate * now + catch_up.piece_bytes + 1
            catch_up.answered(asked, size)
            got, last = got + size, size
    assert got <= rate * now + catch_up.piece_bytes + last + 1


def test_what_does_not_come_takes_nothing_from_what_may():
    catch_up, link, now = CatchUp(10**7), Link(), 0.0
    for _ in range(1_000):
        catch_up.pass_time(now)
        asked = catch_up.take(link)
        if asked is None:
            now += catch_up.pause_s(link)
        else:
            catch_up.answered(asked, 0)
    assert now < 0.1


def test_it_is_as_fast_as_allowed_though_batches_are_large():
    catch_up, link, now, got = CatchUp(10**7), Link(), 0.0, 0
    while now < 10:
        catch_up.pass_time(now)
        asked = catch_up.take(link)
        if asked is None:
            now += catch_up.pause_s(link)
        else:
            catch_up.answered(asked, 1024**2)
            got += 1024**2
    assert got == pytest.approx(10 * 10**7, rel=0.05)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["take", "take", "take", "leave"])), max_size=200))
def test_who_has_waited_longest_is_next(turns):
    """However the askers come and go; and whoever becomes the first is woken, so that it knows how long to wait."""
    catch_up, links, line, now = CatchUp(10**6), [Link() for _ in range(4)], [], 0.0
    for at, turn in turns:
        link, first = links[at], line[0] if line else None
        woken = [one.woken for one in links]
        now += 0.01
        catch_up.pass_time(now)
        if turn == "leave":
            catch_up.leave(link)
            line = [one for one in line if one is not link]
        else:
            line = line if link in line else [*line, link]
            asked = catch_up.take(link)
            if asked is not None:
                assert line.pop(0) is link
                catch_up.answered(asked, asked)
        for one, before in zip(links, woken, strict=True):
            is_new_first = bool(line) and one is line[0] and one is not first and one is not link
            assert one.woken > before or not is_new_first
            assert (catch_up.pause_s(one) < 1) == (bool(line) and one is line[0])


def test_the_first_is_woken_when_less_came_than_was_asked_for():
    catch_up, one, other = CatchUp(10**6), Link(), Link()
    catch_up.pass_time(1)
    asked = catch_up.take(one)
    assert catch_up.take(other) is None
    before = other.woken
    catch_up.answered(asked, 10)
    assert other.woken == before + 1
    assert catch_up.take(one) is None  # though there is enough again
    assert catch_up.take(other) is not None
