"""One write that is held up sends the next ones to the threads, for a while."""

from dduomq.actors.pace import Pace
from dduomq.limits import INLINE_WRITE_HELD_UP_S, INLINE_WRITE_PAUSE_S


def test_a_write_that_was_held_up_pauses_the_others():
    """Quick ones change nothing; the pause ends."""
    pace = Pace()
    assert pace.is_fast(0.0)
    pace.note(10.0, 10.0 + INLINE_WRITE_HELD_UP_S / 2)
    assert pace.is_fast(10.1)
    ended = 20.0 + 2 * INLINE_WRITE_HELD_UP_S
    pace.note(20.0, ended)
    assert not pace.is_fast(ended)
    assert not pace.is_fast(ended + INLINE_WRITE_PAUSE_S / 2)
    assert pace.is_fast(ended + INLINE_WRITE_PAUSE_S)
