"""How far the work on a partition has come: out of order, with gaps."""

from hypothesis import given
from hypothesis import strategies as st

from dduomq.client.progress import Progress


def test_in_order():
    progress = Progress(5)
    assert progress.position == 5
    progress.hand_out(5)
    progress.hand_out(6)
    assert (progress.position, progress.in_flight) == (5, 2)
    progress.done(5)
    assert progress.position == 6
    progress.done(6)
    progress.done(6)
    assert (progress.position, progress.in_flight) == (7, 0)


def test_what_is_done_early_waits_for_what_is_not():
    progress = Progress(0)
    for offset in range(3):
        progress.hand_out(offset)
    progress.done(2)
    progress.done(1)
    assert progress.position == 0
    progress.done(0)
    assert progress.position == 3


def test_gaps_are_passed():
    """Filtered or removed offsets, before, between and behind."""
    progress = Progress(0)
    progress.hand_out(4)
    progress.hand_out(9)
    progress.passed(20)
    assert progress.position == 4
    progress.done(4)
    assert progress.position == 9
    progress.done(9)
    assert progress.position == 20
    progress.passed(15)
    assert progress.position == 20


def test_seeking():
    progress = Progress(0)
    progress.hand_out(0)
    progress.seek(50)
    progress.done(0)
    assert (progress.position, progress.in_flight) == (50, 0)
    progress.seek(3)
    assert progress.position == 3


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_nothing_undone_is_passed(steps):
    """Hand out with gaps, or end any of what is open: never behind the first that is open, never stuck."""
    progress, next_offset, still_open, highest = Progress(0), 0, [], 0
    for is_new, number in steps:
        if is_new:
            next_offset += number
            progress.hand_out(next_offset)
            still_open.append(next_offset)
            next_offset += 1
            highest = next_offset
        elif still_open:
            progress.done(still_open.pop(number % len(still_open)))
        assert progress.position == min(still_open, default=highest)
        assert progress.in_flight == len(still_open)
