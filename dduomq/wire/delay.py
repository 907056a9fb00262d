"""A record's wish to come later, as its headers say it; any client of any protocol can send them.

`dduomq-delay`: so long after the broker got it, `1500` (milliseconds), `1.5s`, `10m`, `2h`, `7d`.
`dduomq-deliver-at`: at that time, `1767225600000` (milliseconds since 1970, UTC) or `2026-01-01T00:00:00+00:00`.
When it comes, neither is there any more: `dduomq-delayed-until` says when it was due. Always true: a wish that can't be
understood is refused, never guessed.
"""

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import cache
from typing import Final

from dduomq.errors import DelayedNotFound, InvalidDelay
from dduomq.limits import DELAY_MS_MAX
from dduomq.ports import Buffer

DELAY_HEADER = "dduomq-delay"
DELIVER_AT_HEADER = "dduomq-deliver-at"
UNTIL_HEADER = "dduomq-delayed-until"
TTL_HEADER = "dduomq-ttl"  # so long after its timestamp a record is worth the work
SCHEDULE_HEADER = "dduomq-schedule"  # the name of the schedule that a record came by
WISHES = frozenset({DELAY_HEADER, DELIVER_AT_HEADER})

# RocketMQ's eighteen, level 1 first
DELAY_LEVELS: Final = tuple(
    timedelta(seconds=seconds)
    for seconds in (1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200)
)

_COMMON = b"dduomq-de"  # what both headers' names begin with
_SHORT_BYTES = 4_096
_MENTIONED = re.compile(_COMMON)
_LENGTH = re.compile(r"([0-9]{1,15})(\.[0-9]{1,6})?\s*(ms|s|m|h|d)?\Z")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, None: 1}
_TEXT_CHARACTERS_MAX = 64


def delay_id(wheel: int, due_ms: int, number: int) -> str:
    """The id of a delayed message, as people and programs name it."""
    return f"{wheel}-{due_ms}-{number}"


def parse_delay_id(text: str) -> tuple[int, int, int]:
    """Wheel, due time and number. Raises `DelayedNotFound` for what no message can be called."""
    parts = text.split("-")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
        raise DelayedNotFound(f"{text!r} is no id of a delayed message: ids look like 2-1767225600000-17")
    wheel, due_ms, number = map(int, parts)
    return wheel, due_ms, number


@cache
def _search() -> Callable[[Buffer], object]:
    """RE2's: on large buffers it is up to ten times as fast as Python's own, and loaded when the first one comes."""
    import re2

    search: Callable[[Buffer], object] = re2.compile(_COMMON).search  # type: ignore[no-untyped-call]
    return search


def mentions_delay(records: Buffer) -> bool:
    """Whether the uncompressed records may have such a header; False is sure. From 4 to 100 GB/s."""
    if len(records) < _SHORT_BYTES:
        return _MENTIONED.search(records) is not None
    return _search()(records) is not None


def due_ms(headers: Iterable[tuple[str, bytes | None]], now_ms: int) -> int | None:
    """When the record wants to come, wall-clock milliseconds, rounded up; None if it says nothing.

    A time that has passed is taken as now. Raises `InvalidDelay`.
    """
    wishes = [(name, content) for name, content in headers if name in WISHES]
    if not wishes:
        return None
    if len(wishes) > 1:
        raise InvalidDelay(f"a record has one {DELAY_HEADER} or {DELIVER_AT_HEADER}, not {len(wishes)} of them")
    name, content = wishes[0]
    text = _text(name, content)
    due = now_ms + parse_delay(text) if name == DELAY_HEADER else parse_deliver_at(text)
    return check_due(due, now_ms)


def check_due(due: int, now_ms: int) -> int:
    """`due`, or `now_ms` if that is later. Raises `InvalidDelay` for a time too far away."""
    if due - now_ms > DELAY_MS_MAX:
        raise InvalidDelay(f"a delay of {(due - now_ms) // 86_400_000} days; {DELAY_MS_MAX // 86_400_000} is the most")
    return max(due, now_ms)


def _text(name: str, content: bytes | None) -> str:
    try:
        text = (content or b"").decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(text) > _TEXT_CHARACTERS_MAX:
        raise InvalidDelay(f"the header {name} is empty or no text: write it like 1500, 1.5s, or 2026-01-01T00:00:00Z")
    return text


def parse_delay(text: str) -> int:
    """Milliseconds, rounded up. Raises `InvalidDelay`."""
    found = _LENGTH.match(text)
    if found is None:
        raise InvalidDelay(f"a delay of {text!r} can't be: write 1500 (milliseconds), 1.5s, 10m, 2h or 7d")
    whole, fraction, unit = found.groups()
    length = _UNIT_MS[unit]
    digits = (fraction or ".0")[1:]
    scale = 10 ** len(digits)
    return int(whole) * length - (-int(digits) * length // int(scale))


def parse_deliver_at(text: str) -> int:
    """Milliseconds since 1970, UTC, rounded up. Raises `InvalidDelay`."""
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidDelay(
            f"a time of {text!r} can't be: write 1767225600000 (milliseconds since 1970) or 2026-01-01T00:00:00Z"
        ) from None
    return moment_ms(moment)


def moment_ms(moment: datetime) -> int:
    """Milliseconds since 1970, rounded up. Raises `InvalidDelay` for a time without its zone."""
    if moment.tzinfo is None:
        raise InvalidDelay(f"{moment.isoformat()} has no time zone: add Z, or +02:00")
    since = moment - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    return int(-(-since // timedelta(milliseconds=1)))


def length_ms(delay: timedelta | float) -> int:
    """Milliseconds of a delay in Python's words: a timedelta, or seconds; rounded up. Raises `InvalidDelay`."""
    span = delay if isinstance(delay, timedelta) else _seconds(delay)
    if span < timedelta(0):
        raise InvalidDelay(f"a delay of {span} can't be: it is 0 or more")
    return -(-span // timedelta(milliseconds=1))


def _seconds(delay: float) -> timedelta:
    try:
        return timedelta(seconds=delay)
    except (OverflowError, ValueError, TypeError):
        raise InvalidDelay(f"a delay of {delay!r} can't be: give seconds, or a timedelta") from None
