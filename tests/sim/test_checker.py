"""The checker: no objection to what is right, and one bad history for each thing that must never be."""

import pytest

from dduomq.testing.checker import Acked, Failed, History, Mark, Seen, Violation, check
from dduomq.testing.queue_checker import Handed, QueueViolation, check_passed

T = ("t", 0)


def history(level="fsync", **fields):
    """Two records, one behind the other, and what else there is."""
    made = History(durability={"t": level}, final={T: [(0, "a:1"), (1, "a:2")]})
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def acked(offset, number, losses=0, at=0.0):
    return Acked("t", 0, offset, "a", number, losses, at, losses)


def seen(offset, value, losses=0, session=-1):
    return Seen("t", 0, offset, value, losses, 0.0, session)


@pytest.mark.parametrize(
    "fields",
    [
        {"acked": [acked(0, 1), acked(1, 2)], "seen": [seen(0, "a:1"), seen(1, "a:2")]},
        {"damaged": {T: {0}}, "refused": {T: {0}}, "final": {T: [(1, "a:2")]}, "acked": [acked(0, 1)]},
        {"purged": {T: (1, 1)}, "starts": {T: 1}, "final": {T: [(1, "a:2")]}, "acked": [acked(0, 1)]},
        {"final": {T: [(0, "a:2"), (1, "a:1")]}, "rounds": {("a", 1): 1, ("a", 2): 1}},
        {"topics_made": {"t", "u"}, "topics_gone": {"u"}, "topics": {"t"}},
        {"topics_made": {"t", "u"}, "topics_unsure": {"u"}, "topics": {"t"}},
        {"seen": [seen(0, "a:1", session=1), seen(0, "a:1", session=2)]},
        {"failed": [Failed("t", 0, "a", 3, 10)]},
    ],
)
def test_what_is_right_passes(fields):
    """Damage that is refused, records that were purged, sends at once, topics that were deleted."""
    check(history(**fields))


@pytest.mark.parametrize(
    ("invariant", "fields"),
    [
        ("I1", {"acked": [acked(5, 1)]}),
        ("I1", {"acked": [acked(0, 2)]}),
        ("I1", {"acked": [acked(0, 9)], "damaged": {T: {0}}}),
        ("I2", {"seen": [seen(0, "a:1"), seen(0, "b:1")]}),
        ("I3", {"acked": [acked(1, 1), acked(0, 2)], "final": {T: [(0, "a:2"), (1, "a:1")]}}),
        ("I3", {"final": {T: [(0, "a:2"), (1, "a:1")]}}),
        ("I3", {"final": {T: [(0, "a:3"), (1, "a:1")]}, "rounds": {("a", 1): 1, ("a", 2): 1}}),
        ("I4", {"final": {T: [(0, "a:1"), (2, "a:2")]}}),
        ("I4", {"seen": [seen(0, "a:1", session=1), seen(2, "a:3", session=1)], "final": {
            T: [(0, "a:1"), (1, "a:2"), (2, "a:3")]}}),
        ("I5", {"seen": [seen(1, "gone")]}),
        ("I6", {"marks": [Mark("t", 0, 5, 0), Mark("t", 0, 4, 1)]}),
        ("I6", {"purged": {T: (1, 1)}}),
        ("I6", {"starts": {T: 1}, "final": {T: [(1, "a:2")]}}),
        ("I8", {"refused": {T: {0}}, "final": {T: [(1, "a:2")]}}),
        ("I8", {"topics_made": {"t"}}),
        ("I8", {"topics_gone": {"t"}, "topics": {"t"}}),
        ("I9", {"final": {T: [(0, "a:1"), (1, "a:1")]}}),
        ("G1a", {"failed": [Failed("t", 0, "a", 2, 10)]}),
    ],
)  # fmt: skip
def test_each_violation_is_seen(invariant, fields):
    """With the invariant's name."""
    with pytest.raises(Violation, match=invariant):
        check(history(**fields))


@pytest.mark.parametrize(
    ("level", "losses", "is_lost"),
    [
        ("fsync", [5.0], True),
        ("flushed", [], True),
        ("flushed", [5.0], True),
        ("flushed", [2.0], False),
        ("flushed", [5.0, 2.0], False),
        ("pagecache", [], True),
        ("pagecache", [5.0], False),
    ],
)
def test_each_level_keeps_what_it_promises(level, losses, is_lost):
    """A record acknowledged at 3.0 is gone: allowed only if a power loss took what was not synced by then."""
    made = history(level, losses=losses, acked=[acked(2, 3, at=3.0)])
    if is_lost:
        with pytest.raises(Violation, match="I1"):
            check(made)
    else:
        check(made)


@pytest.mark.parametrize(
    ("asked", "handed", "is_violation"), [(0, 2, True), (1, 2, True), (2, 2, False), (0, 1, False)]
)
def test_a_queue_passes_only_what_it_gave_out_or_may_have_seen_purged(asked, handed, is_violation):
    """Records 0 to 2 are there at the end, 0 and from `handed` on were given out; a purge up to `asked` was tried."""
    place = ("t", 0)
    final = {place: [(0, "a"), (1, "b"), (2, "c")]}
    hands = [Handed(place, offset, "w", 1, 0.0) for offset in (0, *range(handed, 3))]
    purged = {place: (0, asked)}
    if is_violation:
        with pytest.raises(QueueViolation, match="nobody was given 1"):
            check_passed(final, hands, {place: 3}, purged)
    else:
        check_passed(final, hands, {place: 3}, purged)
