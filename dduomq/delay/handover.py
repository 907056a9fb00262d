"""Messages that the owner of another log hands over to a wheel: under which number, and whether it has come before.

A pure machine. An owner gives each message a number, rising without end, and hands some over at a time, until it is
answered; it may hand over more of them when it does so again. Numbers travel where a producer's id, epoch and sequence
do. Always true: a number not above the highest one that was parked has been parked.
"""

from typing import TypeAlias

from dduomq.errors import InvariantBroken
from dduomq.wire.batch import HANDOVER_IDS, SEQUENCE_MAX

Origin: TypeAlias = tuple[int, int, int]  # producer id, epoch, sequence
NUMBERS_OF_EPOCH = SEQUENCE_MAX + 1
NUMBER_MAX = 2**15 * NUMBERS_OF_EPOCH - 1


def origin_of(owner: int, number: int) -> Origin:
    """What says that this is that owner's message of that number; an owner is `HANDOVER_IDS` and its own number."""
    if owner < HANDOVER_IDS or not 0 <= number <= NUMBER_MAX:
        raise InvariantBroken(f"nobody hands over as {owner} under the number {number}")
    return owner, *divmod(number, NUMBERS_OF_EPOCH)


def is_handed_over(origin: Origin) -> bool:
    """Whether an owner has handed it over; else a producer has sent it."""
    return origin[0] >= HANDOVER_IDS


def number_of(origin: Origin) -> int:
    """The number among its owner's."""
    return origin[1] * NUMBERS_OF_EPOCH + origin[2]
