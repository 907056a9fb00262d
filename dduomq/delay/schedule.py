"""When a recurring message comes: a cron expression or an interval, in a time zone.

A pure machine. Always true: the next time lies behind the one asked about; a time that the change to daylight saving
leaves out comes right behind the gap, one that it brings twice comes once, unless the expression matches every hour
(as Debian's cron does it; cronsim). Rules are `cron 0 9 * * MON-FRI` (six fields: seconds in front) or `every 90s`.
"""

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

import attrs
import cbor2

from dduomq.errors import InvalidDelay, InvalidSchedule
from dduomq.limits import (
    DELAY_MS_MAX,
    SCHEDULE_EVERY_MS_MIN,
    SCHEDULE_NAME_CHARACTERS_MAX,
    SCHEDULE_RULE_CHARACTERS_MAX,
)
from dduomq.wire.delay import parse_delay

PAUSED_MS = 1 << 53  # due at no time that will come
LATE_MS = 60_000  # more, and the time has been missed, whatever comes next


class Missed(StrEnum):
    """What becomes of times that passed while no node was there: none, one, or each of them comes."""

    SKIP = "skip"
    ONCE = "once"
    ALL = "all"


@attrs.frozen
class Schedule:
    """`start_ms`: since when it is; an interval counts from there."""

    name: str
    rule: str
    timezone: str
    missed: Missed
    start_ms: int
    is_paused: bool = False

    def next_after(self, ms: int) -> int:
        """The first time behind `ms`; milliseconds since 1970. Raises `InvalidSchedule` if there is none."""
        return _reader(self.rule, self.timezone)(self.start_ms, ms)

    def due(self, now_ms: int) -> int:
        """When it comes next, seen from now."""
        return PAUSED_MS if self.is_paused else self.next_after(now_ms)

    def after(self, due_ms: int, now_ms: int) -> tuple[bool, int]:
        """Whether the message that was due comes, and when the next one does."""
        following = self.next_after(due_ms)
        if now_ms - due_ms <= LATE_MS and following > now_ms:
            return True, following
        match self.missed:
            case Missed.ALL:
                return True, following
            case Missed.ONCE:
                return True, self.next_after(now_ms)
        return False, self.next_after(now_ms)

    def paused(self) -> "Schedule":
        return attrs.evolve(self, is_paused=True)

    def encode(self) -> bytes:
        return cbor2.dumps([self.name, self.rule, self.timezone, str(self.missed), self.start_ms, self.is_paused])


def decode(data: bytes) -> Schedule:
    """What `encode` wrote."""
    name, rule, timezone, missed, start_ms, is_paused = cbor2.loads(data)[:6]
    return Schedule(name, rule, timezone, Missed(missed), start_ms, is_paused)


def make(name: str, rule: str, timezone: str, missed: str, now_ms: int) -> Schedule:
    """A schedule that can be. Raises `InvalidSchedule` that says what is wrong."""
    if not name or len(name) > SCHEDULE_NAME_CHARACTERS_MAX or not name.isprintable():
        raise InvalidSchedule(f"a schedule's name has 1 to {SCHEDULE_NAME_CHARACTERS_MAX} printable characters")
    if len(rule) > SCHEDULE_RULE_CHARACTERS_MAX:
        raise InvalidSchedule(f"a rule has at most {SCHEDULE_RULE_CHARACTERS_MAX} characters")
    if missed not in set(Missed):
        raise InvalidSchedule(f"missed times are to be one of {', '.join(Missed)}, not {missed!r}")
    schedule = Schedule(name, rule, timezone, Missed(missed), now_ms)
    schedule.next_after(now_ms)
    return schedule


@lru_cache(maxsize=1_000)
def _reader(rule: str, timezone: str) -> Callable[[int, int], int]:
    """What gives the next time from (start, time)."""
    kind, _, rest = rule.strip().partition(" ")
    if kind == "every":
        return _every(rest.strip())
    if kind == "cron":
        return _cron(" ".join(rest.split()), _zone(timezone))
    raise InvalidSchedule(f"a rule of {rule!r} can't be: write `cron 0 9 * * MON-FRI` or `every 90s`")


def _every(text: str) -> Callable[[int, int], int]:
    try:
        length = parse_delay(text)
    except InvalidDelay:
        raise InvalidSchedule(f"an interval of {text!r} can't be: write 90s, 10m, 2h or 7d") from None
    if length > DELAY_MS_MAX:
        raise InvalidSchedule(f"an interval of {length // 86_400_000} days is too long")
    if length < SCHEDULE_EVERY_MS_MIN:
        raise InvalidSchedule(f"an interval of {length} ms is too short: {SCHEDULE_EVERY_MS_MIN} ms is the least")
    return lambda start, ms: start + (max(0, ms - start) // length + 1) * length


def _zone(timezone: str) -> ZoneInfo:
    try:
        return ZoneInfo(timezone)
    except (KeyError, OSError, ValueError):
        raise InvalidSchedule(f"there is no time zone {timezone!r}: names are like Europe/Zurich or UTC") from None


def _cron(expression: str, zone: ZoneInfo) -> Callable[[int, int], int]:
    from cronsim import CronSim, CronSimError  # loaded when the first schedule is

    def following(_start: int, ms: int) -> int:
        try:
            moments = CronSim(expression, datetime.fromtimestamp(ms // 1000, zone))
            # in an hour that comes twice, what it gives first may lie in the first of the two
            return next(at for moment in moments if (at := int(moment.timestamp()) * 1000) > ms)
        except CronSimError as error:
            raise InvalidSchedule(
                f"a cron expression of {expression!r} can't be: {str(error).lower()}; it has five fields, "
                "minute, hour, day, month, weekday, or six with seconds in front"
            ) from None
        except (StopIteration, OverflowError, OSError, ValueError):
            raise InvalidSchedule(f"the cron expression {expression!r} matches no time within 50 years") from None

    return following
