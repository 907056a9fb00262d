"""Which partition a record goes to.

A record with a key goes by Kafka's hash of it, so that order is kept per key and any client agrees. Without a
key a strategy decides: a callable `(count, in_flight) -> partition`, where `in_flight[p]` is the number of bytes
waiting for partition p. Always true: the same key goes to the same partition while their number stays.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeAlias

from dduomq.errors import UsageError

Strategy: TypeAlias = Callable[[int, Sequence[int]], int]
_M, _SEED, _MASK = 0x5BD1E995, 0x9747B28C, 0xFFFFFFFF
STICKY_BYTES = 16 * 1024


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit hash (org.apache.kafka.common.utils.Utils.murmur2)."""
    length = len(data)
    result = (_SEED ^ length) & _MASK
    for at in range(0, length - length % 4, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        word = (word ^ word >> 24) * _M & _MASK
        result = (result * _M & _MASK) ^ word
    rest = data[length - length % 4 :]
    if rest:
        result = (result ^ int.from_bytes(rest, "little")) * _M & _MASK
    result = (result ^ result >> 13) * _M & _MASK
    return result ^ result >> 15


def by_key(key: bytes, count: int) -> int:
    """Kafka's default: a positive hash modulo the number of partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % count


def random(rng: Random) -> Strategy:
    """Any partition."""
    return lambda count, _in_flight: rng.randrange(count)


def round_robin() -> Strategy:
    """One after another."""
    turn = -1

    def choose(count: int, _in_flight: Sequence[int]) -> int:
        nonlocal turn
        turn = (turn + 1) % count
        return turn

    return choose


def sticky(rng: Random) -> Strategy:
    """One partition until its batch is worth sending, then another (KIP-794)."""
    current = -1

    def choose(count: int, in_flight: Sequence[int]) -> int:
        nonlocal current
        if not 0 <= current < count or in_flight[current] >= STICKY_BYTES:
            current = rng.randrange(count)
        return current

    return choose


def least_loaded() -> Strategy:
    """The partition with the fewest bytes waiting."""
    return lambda count, in_flight: min(range(count), key=in_flight.__getitem__)


def weighted(weights: Sequence[float], rng: Random) -> Strategy:
    """By weight; partitions beyond the weights given get none."""
    if not weights or min(weights) < 0 or not sum(weights):
        raise UsageError("weights must not be negative, and one must be more than 0")

    def choose(count: int, _in_flight: Sequence[int]) -> int:
        return rng.choices(range(min(count, len(weights))), weights[:count])[0]

    return choose


def named(name: str | Strategy, rng: Random) -> Strategy:
    """The strategy called `name`, or a user's own. Raises `UsageError`."""
    if callable(name):
        return name
    match name:
        case "sticky":
            return sticky(rng)
        case "random":
            return random(rng)
        case "round-robin":
            return round_robin()
        case "least-loaded":
            return least_loaded()
    raise UsageError(f"partitioner {name!r} is not known: sticky, random, round-robin, least-loaded, or a function")
