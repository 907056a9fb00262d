"""Which partition a record goes to."""

from random import Random

import pytest

from dduomq.client import partitioners
from dduomq.errors import UsageError

# From Kafka's own UtilsTest.testMurmur2.
MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", MURMUR2)
def test_murmur2_is_kafkas(key):
    """The values that Kafka's own test expects."""
    assert partitioners.murmur2(key) == MURMUR2[key] & 0xFFFFFFFF


@pytest.mark.parametrize("name", ["sticky", "random", "round-robin", "least-loaded"])
def test_every_strategy_stays_within_the_partitions(name):
    """Whatever their number, also when it grows."""
    choose = partitioners.named(name, Random(1))
    for count in (1, 3, 2, 8):
        assert all(0 <= choose(count, [0] * count) < count for _ in range(50))


def test_round_robin_takes_turns():
    """One after another."""
    choose = partitioners.round_robin()
    assert [choose(3, [0] * 3) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_sticky_stays_until_a_batch_is_worth_sending():
    """Then it takes another."""
    choose = partitioners.sticky(Random(1))
    first = choose(50, [0] * 50)
    assert {choose(50, [0] * 50) for _ in range(20)} == {first}
    full = [0] * 50
    full[first] = partitioners.STICKY_BYTES
    assert choose(50, full) != first


def test_least_loaded_looks_at_what_waits():
    """The fewest bytes win."""
    assert partitioners.least_loaded()(3, [5, 1, 9]) == 1


def test_weights_count():
    """A weight of 0 gets nothing."""
    choose = partitioners.weighted([0, 1, 0], Random(1))
    assert {choose(3, [0] * 3) for _ in range(20)} == {1}
    with pytest.raises(UsageError):
        partitioners.weighted([], Random(1))


def test_an_unknown_name_lists_the_known():
    """As everywhere."""
    with pytest.raises(UsageError, match="sticky, random"):
        partitioners.named("clever", Random(1))
