"""What a filter's expression is made of, as small functions of a record: fields, comparisons, logic.

Always true: no function here raises, whatever the record holds; each looks at its operands once, so the cost
of a filter grows with its parts and with the values it looks at. SQL's NULL, and its "unknown", are None.

A value is raw `bytes` when it comes from a record: what it stands for is decided by what it is compared with.
Numbers without point and exponent are exact, all others are doubles; what grows past either is NULL.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Protocol, TypeAlias

import attrs

from dduomq.limits import FILTER_NUMBER_CHARACTERS_MAX, FILTER_VALUE_BYTES_MAX
from dduomq.wire.batch import NO_TIMESTAMP


class Properties(Protocol):
    """What a filter may look at: `wire.records.StoredRecord` and the client's `Record` have it."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...

    @property
    def key(self) -> bytes | None: ...

    @property
    def timestamp_ms(self) -> int: ...


Number: TypeAlias = int | float
Value: TypeAlias = bytes | str | Number | None
Run: TypeAlias = Callable[[Properties], Value]
Truth: TypeAlias = Callable[[Properties], bool | None]


class Kind(Enum):
    """What an operand is known to be before any record is seen."""

    FIELD = "a header"  # or the key or the tag: a text that may stand for a number or a truth value
    TEXT = "a text"
    NUMBER = "a number"
    TRUTH = "a condition"
    NULL = "NULL"


@attrs.frozen(slots=True)
class Operand:
    """A part of an expression. `constant` is its value where that is known beforehand; None also for NULL."""

    kind: Kind
    run: Run
    at: int
    depth: int = 1
    constant: Value = None


# --- values -----------------------------------------------------------------------------------------

TAG_HEADER = "dduomq-tag"
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+(\.[0-9]*)?|(\.[0-9]+))([eE][+-]?[0-9]+)?")
_INTEGER_MAX = 10**FILTER_NUMBER_CHARACTERS_MAX
_TRUTHS = {"true": True, "false": False}


def header(name: str) -> Run:
    """The last header of that name."""

    def run(record: Properties) -> bytes | None:
        for held, content in reversed(record.headers):
            if held == name:
                return content if content is not None and len(content) <= FILTER_VALUE_BYTES_MAX else None
        return None

    return run


def key(record: Properties) -> bytes | None:
    content = record.key
    return content if content is not None and len(content) <= FILTER_VALUE_BYTES_MAX else None


def timestamp(record: Properties) -> int | None:
    return None if record.timestamp_ms == NO_TIMESTAMP else record.timestamp_ms


def always(value: Value) -> Run:
    return lambda record: value


def number_of(value: Any) -> Number | None:
    """A number, or the one that a text stands for: decimal digits, perhaps a sign, a point and an exponent."""
    raw = value.encode("utf-8", "replace") if isinstance(value, str) else value
    if not isinstance(raw, bytes):
        return raw  # type: ignore[no-any-return]
    if len(raw) > FILTER_NUMBER_CHARACTERS_MAX:
        return None
    if raw.isdigit():
        return int(raw)
    found = _NUMBER.fullmatch(raw)
    if found is None:
        return None
    return int(raw) if found.lastindex is None else _bounded(float(raw))


def text_of(value: bytes | str) -> str | None:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _truth_of(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return _TRUTHS.get((text_of(value) or "").lower())


def _bounded(number: Number) -> Number | None:
    """Results that grow without end are NULL: no product of products may fill the memory."""
    if isinstance(number, int):
        return number if -_INTEGER_MAX <= number <= _INTEGER_MAX else None
    return number if math.isfinite(number) else None


# --- comparisons ------------------------------------------------------------------------------------


def _judge(relate: Callable[[Any, Any], bool], a: Value, b: Value) -> bool | None:
    """Compare any two values: a truth value or number makes the other one so; two fields are numbers if both can."""
    if a is None or b is None:
        return None
    x: Any
    y: Any
    if isinstance(a, bool) or isinstance(b, bool):
        x, y = _truth_of(a), _truth_of(b)
    elif isinstance(a, int | float) or isinstance(b, int | float):
        x, y = number_of(a), number_of(b)
    else:
        x, y = (number_of(a), number_of(b)) if isinstance(a, bytes) and isinstance(b, bytes) else (None, None)
        if x is None or y is None:
            x, y = text_of(a), text_of(b)
    return None if x is None or y is None else relate(x, y)


def compare(sign: str, left: Operand, right: Operand) -> Truth:
    relate, load, other = COMPARISONS[sign], left.run, right.run
    if left.kind is Kind.FIELD and right.constant is not None and right.kind in {Kind.NUMBER, Kind.TEXT}:
        return _compare_field(relate, load, number_of if right.kind is Kind.NUMBER else text_of, right.constant)

    def run(record: Properties) -> bool | None:
        return _judge(relate, load(record), other(record))

    return run


def _compare_field(relate: Callable[[Any, Any], bool], load: Run, read: Callable[[Any], Any], constant: Any) -> Truth:
    """The usual case, with all that is known beforehand decided beforehand."""

    def run(record: Properties) -> bool | None:
        raw = load(record)
        if raw is None:
            return None
        value = read(raw)
        return None if value is None else relate(value, constant)

    return run


def between(left: Operand, low: Operand, high: Operand) -> Truth:
    load, lowest, highest = left.run, low.run, high.run

    def run(record: Properties) -> bool | None:
        value = load(record)
        above = _judge(operator.ge, value, lowest(record))
        if above is False:
            return False
        below = _judge(operator.le, value, highest(record))
        return below if above or below is False else None

    return run


def among(left: Operand, items: Sequence[Operand]) -> Truth:
    """IN: the OR of the equalities."""
    load, runs = left.run, tuple(item.run for item in items)
    constants = frozenset(item.constant for item in items if item.kind is not Kind.NULL)
    kinds = {item.kind for item in items} - {Kind.NULL}
    if left.kind is Kind.FIELD and None not in constants and (kinds == {Kind.TEXT} or kinds == {Kind.NUMBER}):
        otherwise = None if any(item.kind is Kind.NULL for item in items) else False
        return _field_among(load, number_of if kinds == {Kind.NUMBER} else text_of, constants, otherwise)

    def run(record: Properties) -> bool | None:
        value = load(record)
        otherwise: bool | None = False
        for item in runs:
            found = _judge(operator.eq, value, item(record))
            if found:
                return True
            if found is None:
                otherwise = None
        return otherwise

    return run


def _field_among(load: Run, read: Callable[[Any], Any], constants: frozenset[Any], otherwise: bool | None) -> Truth:
    def run(record: Properties) -> bool | None:
        raw = load(record)
        if raw is None:
            return None
        value = read(raw)
        if value is None:
            return None
        return True if value in constants else otherwise

    return run


def is_null(operand: Operand) -> Truth:
    """What is not UTF-8 is NULL here too, as it is in every comparison."""
    load = operand.run

    def run(record: Properties) -> bool:
        value = load(record)
        return value is None or (isinstance(value, bytes) and text_of(value) is None)

    return run


# --- logic and arithmetic ---------------------------------------------------------------------------


def negate(condition: Run) -> Truth:
    def run(record: Properties) -> bool | None:
        found = condition(record)
        return None if found is None else not found

    return run


def join(parts: Iterable[Run], decisive: bool) -> Truth:
    """AND, for which a FALSE is decisive, or OR, for which a TRUE is."""
    conditions, otherwise = tuple(parts), not decisive

    def run(record: Properties) -> bool | None:
        result: bool | None = otherwise
        for condition in conditions:
            found = condition(record)
            if found is decisive:
                return decisive
            if found is None:
                result = None
        return result

    return run


def _divide(a: Number, b: Number) -> Number | None:
    """Seven by two is 3.5: headers have no type that could tell whether whole numbers are meant."""
    if not b:
        return None
    if isinstance(a, int) and isinstance(b, int) and a % b == 0:
        return a // b
    return a / b


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": _divide,
}  # fmt: skip


def calculate(sign: str, left: Run, right: Run) -> Run:
    combine = ARITHMETIC[sign]

    def run(record: Properties) -> Number | None:
        a, b = number_of(left(record)), number_of(right(record))
        if a is None or b is None:
            return None
        result = combine(a, b)
        return None if result is None else _bounded(result)

    return run
