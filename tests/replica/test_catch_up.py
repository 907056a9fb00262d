"""Catching up by small pieces: never faster than allowed, and no slower."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dduomq.limits import REPLICA_PART_BYTES_MAX, REPLICA_PART_BYTES_MIN
from dduomq.replica.catch_up import CatchUp


def test_without_a_limit_it_never_waits():
    catch_up = CatchUp(None)
    assert not catch_up.is_limited
    for _ in range(100):
        assert catch_up.may_ask
        catch_up.answered(catch_up.asked(), 10**9)
    assert (catch_up.pause_s, catch_up.piece_bytes) == (0.0, REPLICA_PART_BYTES_MAX)


@pytest.mark.parametrize(
    ("rate", "piece"), [(1, REPLICA_PART_BYTES_MIN), (10**7, 250_000), (10**12, REPLICA_PART_BYTES_MAX)]
)
def test_a_piece_is_a_small_part_of_a_second(rate, piece):
    assert CatchUp(rate).piece_bytes == piece


@given(st.integers(1_000_000, 100_000_000), st.lists(st.tuples(st.floats(0, 0.1), st.integers(0, 2 * 1024**2))))
def test_never_faster_than_allowed(rate, turns):
    """Whatever comes, and whenever it is asked for: in any time the rate, the piece at its beginning, and the last."""
    catch_up, now, got, last = CatchUp(rate), 0.0, 0, 0
    for pause, size in turns:
        now += pause
        catch_up.pass_time(now)
        if catch_up.may_ask:
            assert got <= rate * now + catch_up.piece_bytes + 1
            catch_up.answered(catch_up.asked(), size)
            got, last = got + size, size
    assert got <= rate * now + catch_up.piece_bytes + last + 1


def test_what_does_not_come_takes_nothing_from_what_may():
    catch_up, now, asked = CatchUp(10**7), 0.0, 0
    for _ in range(1_000):
        now += catch_up.pause_s
        catch_up.pass_time(now)
        if catch_up.may_ask:
            asked += 1
            catch_up.answered(catch_up.asked(), 0)
    assert asked > 900


def test_it_is_as_fast_as_allowed_though_batches_are_large():
    catch_up, now, got = CatchUp(10**7), 0.0, 0
    while now < 10:
        now += catch_up.pause_s
        catch_up.pass_time(now)
        assert catch_up.may_ask
        catch_up.answered(catch_up.asked(), 1024**2)
        got += 1024**2
    assert got == pytest.approx(10 * 10**7, rel=0.05)
