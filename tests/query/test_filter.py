"""Filters: the grammar, SQL's three-valued logic, places in errors, hostile texts and records."""

import string
from functools import cache
from itertools import product

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dduomq.client.record import Record
from dduomq.errors import InvalidFilter
from dduomq.limits import FILTER_DEPTH_MAX, FILTER_NODES_MAX, FILTER_STEPS_MAX, FILTER_VALUE_BYTES_MAX
from dduomq.query import like
from dduomq.query.filter import Filter, compile_filter
from dduomq.wire import records
from dduomq.wire.records import StoredRecord

HEADERS = {
    "price": b"17", "half": b"0.5", "exp": b"1e3", "minus": b"-3", "big": b"9" * 30, "big1": b"9" * 29 + b"8",
    "region": b"eu", "note": None, "empty": b"", "bad": b"\xff\xfe", "yes": b"True", "no": b"FALSE",
    "my-header": b"x", "KEY": b"header called KEY", "it's": b"it's", "inf": b"inf", "nan": b"nan",
    "under": b"1_0", "space": b" 1", "long": b"1" * 65, "huge": b"1e999999999", "tiny": b"1e-999999999",
    "word": "grün".encode(), "a.b$c": b"dotted", "thai": "๑".encode(), "like": b"keyword", "17a": b"17a", "pct": b"50%",
}  # fmt: skip


def record(headers=HEADERS, *, key=b"k1", tag="paid", timestamp_ms=1000) -> StoredRecord:
    found = list(headers.items() if isinstance(headers, dict) else headers)
    if tag is not None:
        found.append(("dduomq-tag", tag.encode()))
    return StoredRecord(7, timestamp_ms, key, b"value", found)


def truth(condition: str, seen=None) -> bool | None:
    """TRUE, FALSE or NULL, told from outside: NULL matches neither way."""
    seen = record() if seen is None else seen
    if compile_filter(f"({condition})").matches(seen):
        return True
    return False if compile_filter(f"NOT ({condition})").matches(seen) else None


# --- tags -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "matching", "others"),
    [
        ("*", ["paid", None, ""], []),
        (" * ", ["paid", None], []),
        ("paid", ["paid"], ["Paid", "pai", None, ""]),
        ("created || paid", ["created", "paid"], ["created || paid", None]),
        ("a||b  ||\tc", ["a", "b", "c"], ["d"]),
        ("a-b.c:d_1 || 5", ["a-b.c:d_1", "5"], ["a"]),
        ("TRUE", ["TRUE"], ["paid"]),  # one bare word is a tag, whatever it means in an expression
        ("TAG = 'paid'", ["paid"], ["made", None]),
        ("TAGS IN ('paid', 'made') AND TAG <> 'made'", ["paid"], ["made", None]),
    ],
)
def test_tags(text, matching, others):
    """Names joined by || and nothing else are tags."""
    wanted = compile_filter(text)
    assert wanted.text == text
    assert wanted.takes_all is (text.strip() == "*")
    assert [tag for tag in matching if not wanted.matches(record(tag=tag))] == []
    assert [tag for tag in others if wanted.matches(record(tag=tag))] == []


# --- the grammar ------------------------------------------------------------------------------------

TRUE = [
    "pct LIKE '50%%' ESCAPE '%'", "'_x' LIKE '__%' ESCAPE '_'",
    "price = 17", "price <> 18", "price != 18", "price < 17.5", "price <= 17", "price > 16.999", "price >= 1.7e1",
    "17 = price", "price > 5 AND region IN ('eu','us') AND note IS NULL", "price>5 and(region='eu')",
    "price BETWEEN 17 AND 18", "price NOT BETWEEN 18 AND 20", "price NOT BETWEEN 18 AND 17",
    "region IN ('us', 'eu')", "region NOT IN ('us')", "price IN (1, 17.0)", "price IN ('17')", "price IN (1, 'x', 17)",
    "region LIKE 'e%'", "region LIKE '_u'", "region NOT LIKE 'u%'", "empty LIKE ''", "empty LIKE '%'",
    "pct LIKE '%!%' ESCAPE '!'", "pct LIKE '50\\%' ESCAPE '\\'", "'a_b' LIKE 'a!_b' ESCAPE '!'",
    "note IS NULL", "gone IS NULL", "region IS NOT NULL", "(price > 5) IS NOT NULL", "(note > 5) IS NULL",
    "bad IS NULL", "NULL IS NULL", "empty IS NOT NULL", "empty = ''",
    "yes = TRUE", "no = FALSE", "TRUE <> no", "(price > 5) = TRUE", "(price > 5) = yes", "yes IN (FALSE, TRUE)",
    "1 + 2 * 3 = 7", "(1 + 2) * 3 = 9", "10 - 4 - 3 = 3", "8 / 2 / 2 = 2", "7 / 2 = 3.5", "6 / 3 = 2", "-price = -17",
    "- -price = 17", "-2 * -3 = 6", "price*2+1 = 35", "price-5=12", "2 - -2 = 4", "-half = -.5", "1 = 1.", "-price < 0",
    "NOT price = 1", "NOT NOT price = 17", "NOT price = 1 AND price = 17", "TRUE OR FALSE AND FALSE",
    "(TRUE OR FALSE) AND TRUE", "NOT FALSE OR TRUE", "(((price)))=(((17)))", "FALSE OR NOT FALSE",
    "half = .5", "half = 0.50", "exp = 1000", "minus = -3", "minus < half", "big > big1", "big = " + "9" * 30,
    "big <> " + "9" * 29 + "8", "tiny = 0", "'5' = 5", "5 < '6'", "'10' < '9'", "price < exp", "region < word",
    "price < region", "region > price",
    "\"my-header\" = 'x'", "`my-header` = 'x'", "\"it's\" = 'it''s'", "\"KEY\" = 'header called KEY'", "KEY = 'k1'",
    "\"like\" = 'keyword'", "a.b$c = 'dotted'", "TIMESTAMP = 1000", "TIMESTAMP BETWEEN 999 AND 1001", "TAG LIKE 'p%'",
    "word = 'grün'", "word LIKE 'gr_n'", "price\n>\t5", "price is not null", "region Not In ('us') aNd tRuE",
    "17 BETWEEN minus AND price", "'eu' IN (note, region)", "price IN (NULL, 17)", "region IN (NULL, 'eu')",
    "price NOT BETWEEN 20 AND NULL", "region LIKE 'eu'",
]  # fmt: skip

FALSE = [
    "region LIKE 'e%%' ESCAPE '%'", "region LIKE '__' ESCAPE '_'",
    "price = 18", "Region IS NOT NULL", "region = 'EU'", "region LIKE 'E%'", "region LIKE 'e'", "region IN ('us')",
    "price BETWEEN 18 AND 17", "NOT TRUE", "TRUE AND FALSE", "FALSE AND TRUE OR FALSE", "price BETWEEN 18 AND NULL",
    "price BETWEEN NULL AND 16", "pct LIKE '50!_' ESCAPE '!'", "region = \"my-header\"", "7 / 2 = 3", "'a' LIKE 'a_'",
]  # fmt: skip

NULL = [
    "note = 1", "gone = 'x'", "gone <> 'x'", "note = note", "NULL = NULL", "price = NULL", "NULL IN (1)", "NOT NULL",
    "region > 5", "region = TRUE", "inf > 1", "nan = nan + 0", "under = 10", "space = 1", "huge > 1", "long > 1",
    "thai = 1", "\"17a\" = 17", "price / 0 = 1", "0 / 0 = 0", "price / 0.0 > 1",
    "price / empty = 1", "bad = 'x'", "bad <> 'x'", "bad LIKE '%'", "bad IN ('x')", "note LIKE '%'", "NULL LIKE 'x'",
    "price IN (1, NULL)", "price NOT IN (1, NULL)", "region IN ('us', NULL)", "region IN (1, 'us')", "gone IN ('x')",
    "note BETWEEN 1 AND 2", "price BETWEEN 1 AND NULL", "price BETWEEN NULL AND 18", "NULL AND TRUE", "NULL OR FALSE",
    "-note = 1", "-region = 1", "price + note = 1", "NULL + 1 = 1", "(note = 1) = TRUE", "yes = (note = 1)",
    "1e300 * 1e300 > 0", "-1e300 * 1e300 < 0", "big * big * big > 0",
]  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "expected"), [*((c, True) for c in TRUE), *((c, False) for c in FALSE), *((c, None) for c in NULL)]
)
def test_what_a_condition_is(condition, expected):
    """Each operator, how tightly it binds, and how values become comparable."""
    assert truth(condition) is expected


VALUES = {"TRUE": True, "FALSE": False, "NULL": None}
RANK = {False: 0, None: 1, True: 2}


@pytest.mark.parametrize("a", VALUES)
@pytest.mark.parametrize("b", VALUES)
def test_three_valued_logic(a, b):
    """AND is the least of its sides, OR the greatest, NULL being between FALSE and TRUE."""
    assert truth(f"{a} AND {b}") is min(VALUES[a], VALUES[b], key=RANK.__getitem__)
    assert truth(f"{a} OR {b}") is max(VALUES[a], VALUES[b], key=RANK.__getitem__)
    assert truth(f"NOT {a}") is (None if VALUES[a] is None else not VALUES[a])
    assert truth(f"({a}) = ({b})") is (None if "NULL" in (a, b) else a == b)
    assert truth(f"({a}) <> {b}") is (None if "NULL" in (a, b) else a != b)
    assert truth(f"({a}) IS NULL") is (a == "NULL")


def test_the_last_header_of_a_name_counts():
    """As with the client's `record.header`; a last one without a value hides those before it."""
    assert truth("a = 2", record([("a", b"1"), ("b", b"9"), ("a", b"2")])) is True
    assert truth("a IS NULL", record([("a", b"1"), ("a", None)])) is True


def test_key_and_time_may_be_absent():
    """A record without key, tag or time has NULL there."""
    seen = record({}, key=None, tag=None, timestamp_ms=-1)
    for name in ("KEY", "TAG", "TIMESTAMP"):
        assert truth(f"{name} IS NULL", seen) is True
        assert truth(f"{name} = 1", seen) is None


def test_a_long_value_is_null():
    """What is longer than the cap is not looked at."""
    for name, seen in (
        ("a", lambda size: record({"a": b"x" * size})),
        ("KEY", lambda size: record(key=b"x" * size)),
    ):
        assert truth(f"{name} LIKE 'x%'", seen(FILTER_VALUE_BYTES_MAX)) is True
        assert truth(f"{name} LIKE 'x%'", seen(FILTER_VALUE_BYTES_MAX + 1)) is None


def test_records_as_they_are_read_can_be_asked():
    """A filter takes what `records.decode` makes, and a client's record."""
    wanted = compile_filter("a = 1 AND KEY = 'k' AND TIMESTAMP > 4")
    (stored,) = records.decode(records.encode([(5, b"k", b"v", [("a", b"1")])]))
    assert wanted.matches(stored)
    assert wanted.matches(Record("t", 0, 3, 5, b"k", b"v", [("a", b"1")]))


# --- errors -----------------------------------------------------------------------------------------

WRONG = [
    ("price > 5 ANDD region IN ('eu')", 11, "ANDD", "expected AND, OR or the end"),
    ("price > ", 9, None, "expected a header's name, a text, a number"),
    ("price >> 5", 8, ">", "expected a header's name"),
    ("price 5", 7, "5", "expected a comparison"),
    ("a = 1 b = 2", 7, "b", "expected AND, OR"),
    ("a = b = c", 7, "=", "expected AND, OR"),
    ("NOT a = 1 = 2", 11, "=", "expected AND, OR"),
    ("a = NOT b", 5, "NOT", "expected a header's name"),
    ("a IS 5", 6, "5", "expected NULL or NOT NULL"),
    ("a IS NOT 5", 10, "5", "expected NULL"),
    ("a NOT 5", 7, "5", "expected BETWEEN, IN or LIKE"),
    ("a BETWEEN 1 OR 2", 13, "OR", "expected AND and the upper bound"),
    ("a IN 5", 6, "5", "expected ("),
    ("a IN ()", 7, ")", "expected a header's name"),
    ("a IN (1 2)", 9, "2", 'expected "," or ")"'),
    ("a IN (1,", 9, None, "expected a header's name"),
    ("a LIKE 5", 8, "5", "expected a pattern"),
    ("a LIKE b", 8, "b", "expected a pattern"),
    ("a LIKE 'x' ESCAPE 'ab'", 19, "'ab'", "expected one character"),
    ("a LIKE 'x!y' ESCAPE '!'", 8, "'x!y'", "behind each !"),
    ("a LIKE 'x!' ESCAPE '!'", 8, "'x!'", "behind each !"),
    ("5 LIKE 'x'", 1, "5", "expected a header or a text before LIKE"),
    ("(a = 1", 7, None, 'expected AND, OR or ")"'),
    ("(a", 3, None, "expected a comparison"),
    ("a = 1)", 6, ")", "expected AND, OR or the end"),
    ("a + 1", 1, "a", "expected a condition, this is a number"),
    ("(a) OR b = 1", 1, "(a)", "expected a condition, this is a header"),
    ("'x'", 1, "'x'", "expected a condition, this is a text"),
    ("NOT a", 5, "a", "expected a condition"),
    ("(a = 1) + 1 = 2", 1, "(a", "expected a value"),
    ("-(a = 1) = 2", 2, "(a", "expected a value"),
    ("(a = 1) > TRUE", 1, "(a", "by = and <>, not by >"),
    ("TRUE = 1", 1, "TRUE", "can't be compared"),
    ("a = 'x", 5, "'x", "does not end"),
    ('"a = 5', 1, '"a', "does not end"),
    ('"" = 5', 1, '""', "expected a header's name between"),
    ("a = 5ms", 5, "5ms", "without letters"),
    ("a = 1e999", 5, "1e999", "smaller"),
    ("a = " + "1" * 65, 5, "1" * 20, "shorter"),
    ("grün = 5", 3, "ün", "expected"),
    ("a = #", 5, "#", "expected"),
    ("a || b = 5", 3, "||", "joins tags only"),
    ("a ||", 3, "||", "joins tags only"),
    ("* || a", 3, "||", "joins tags only"),
    ("* = a", 1, "*", "expected a header's name"),
    ("a = 5;", 6, ";", "expected"),
]


@pytest.mark.parametrize(("text", "place", "near", "what"), WRONG)
def test_an_error_points_at_the_place(text, place, near, what):
    """Which character, what stands there, what was expected."""
    with pytest.raises(InvalidFilter) as caught:
        compile_filter(text)
    message = caught.value.message
    assert message.startswith(f"filter, at character {place}, " + (f'near "{near}' if near else "the end"))
    assert what in message
    assert len(message) < 250


@pytest.mark.parametrize(("text", "what"), [("", "empty"), (" \n", "empty"), ("a" * 4097, "at most 4096 characters")])
def test_errors_without_a_place(text, what):
    """Nothing at all, or too much."""
    with pytest.raises(InvalidFilter, match=what):
        compile_filter(text)


# --- hostile texts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "(" * 4096, "NOT " * 1000 + "TRUE", "- " * 2000 + "1 = 1", "(" * 2000 + "a" + ")" * 2000 + "=1",
        "a=" + "+".join(["b"] * 255), "a IN (" * 500, "a=1 AND (" * 400, "a BETWEEN " * 400, "((a=1)=" * 500,
        "'" * 4095, '"' * 4095, "`a" * 2000, "1" * 4096 + " ", "<" * 4096, "e" * 4000 + " = ", "a LIKE '" + "%" * 4000,
        "a=1 OR " * 500 + "a=1", "a IN (" + ",".join("1" * 1500) + ")",
    ],
)  # fmt: skip
def test_what_is_too_deep_or_too_much_is_refused(text):
    """No text reaches the interpreter's own limits."""
    with pytest.raises(InvalidFilter):
        compile_filter(text)


def test_what_is_allowed_can_be_evaluated():
    """As deep and as much as the limits allow, and no error on the way."""
    deep = FILTER_DEPTH_MAX - 3
    terms = (FILTER_NODES_MAX - 1) // 3
    assert truth("(" * deep + "price" + ")" * deep + " = 17") is True
    assert truth("NOT " * deep + "FALSE") is bool(deep % 2)
    assert truth("price = 17" + " + 0" * deep) is True
    assert truth(" OR ".join(["price = 18"] * (terms - 2) + ["price = 17"])) is True
    assert truth(" AND ".join(["price = 17"] * (terms - 1))) is True
    assert truth("price IN (" + ", ".join(map(str, range(FILTER_NODES_MAX - 5))) + ")") is True


class Counting(str):
    """A text that counts how often it was looked at, and how many characters a search could have passed."""

    __slots__ = ("looks", "passed")

    def find(self, part, begin, end):  # type: ignore[override]
        hit = super().find(part, begin, end)
        self.passed = getattr(self, "passed", 0) + (hit if hit >= 0 else end) - begin
        return hit

    def startswith(self, part, at):  # type: ignore[override]
        self.looks = getattr(self, "looks", 0) + 1
        return super().startswith(part, at)


@pytest.mark.parametrize(
    "pattern",
    [
        "%a" * 2000 + "%", "%a" * 2000 + "b", "%" + "a%" * 1500 + "b%", "%a_a" * 1000 + "%b%", "%" + "a_" * 1500 + "b%",
        "%" + "_a" * 1500 + "b%", "%" + "a" * 3000 + "b%", "%b" + "a" * 3000 + "%", "%" * 4000, "_%" * 2000,
        "%" + "a" * 1500 + "b" + "a" * 1500 + "%", "%aaaaaaaaaaaaaab%", "%a_b%",
    ],
)  # fmt: skip
def test_like_takes_no_more_than_its_steps(pattern):
    """Many % against a long text of one letter: what is looked at is bounded, not only the time."""
    text = Counting("a" * 60_000)
    found = like.parse(pattern).match(text, FILTER_STEPS_MAX)
    assert found is not True or "b" not in pattern
    assert getattr(text, "passed", 0) <= FILTER_STEPS_MAX + len(text)
    assert getattr(text, "looks", 0) <= FILTER_STEPS_MAX // 4
    assert compile_filter(f"a LIKE '{pattern}'").matches(record({"a": text.encode()})) is (found is True)


def test_like_of_plain_pieces_needs_few_steps():
    """One pass over the text, however many % there are; several LIKEs share the steps."""
    text = "a" * 60_000
    assert like.parse("%" + "a%" * 1500 + "b%").match(text, 100_000) is False
    assert like.parse("%" + "ab%" * 1500).match(text, 100_000) is False
    assert like.parse("%b%").match(text, 30_000) is None
    hard = "a LIKE '%a_b%'"
    assert truth(hard, record({"a": b"a" * 60_000})) is None
    assert truth(hard, record({"a": b"a" * 1_000})) is False
    shared, share = " OR ".join(["a LIKE '%b%'"] * 20), FILTER_STEPS_MAX // 20
    assert truth(shared, record({"a": b"a" * (share + 9)})) is None
    assert truth(shared, record({"a": b"a" * share})) is False


# --- against a plain reading of the rules -----------------------------------------------------------


@attrs.frozen
class Node:
    """A part of an expression; `text` is how it is written, `value` what it is for a record."""

    text: str
    value: object  # a function of the headers


T, U, F = 1.0, 0.5, 0.0  # TRUE, unknown, FALSE


def as_number(value):
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    body = value[1:] if value[:1] in ("+", "-") and value else value
    mantissa, _, exponent = body.replace("E", "e").partition("e")
    whole, _, part = mantissa.partition(".")
    digits = set(string.digits)
    is_number = bool(whole + part) and set(whole + part) <= digits and len(value) <= 64
    if "e" in body.lower():
        unsigned = exponent[1:] if exponent[:1] in ("+", "-") and exponent else exponent
        is_number = is_number and bool(unsigned) and set(unsigned) <= digits
    if not is_number:
        return None
    return limited(float(value) if set(body) - digits else int(value))


def limited(number):
    if isinstance(number, int):
        return number if abs(number) <= 10**64 else None
    return number if abs(number) < 1e309 and number == number else None


def as_text(value):
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return None


def related(sign, a, b):
    """T, U or F."""
    if a is None or b is None:
        return U
    if (
        isinstance(a, int | float)
        or isinstance(b, int | float)
        or (isinstance(a, bytes) and isinstance(b, bytes) and None not in (as_number(a), as_number(b)))
    ):
        a, b = as_number(a), as_number(b)
    else:
        a, b = as_text(a), as_text(b)
    if a is None or b is None:
        return U
    return T if {"=": a == b, "<>": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[sign] else F


def combined(sign, a, b):
    a, b = as_number(a), as_number(b)
    if a is None or b is None or (sign == "/" and b == 0):
        return None
    if sign == "/":
        both = isinstance(a, int) and isinstance(b, int)
        return limited(a // b if both and a % b == 0 else a / b)
    return limited(a + b if sign == "+" else a - b if sign == "-" else a * b)


def alike(text, pattern, escape):
    """Every way to read the pattern, tried."""
    marks = []
    at = 0
    while at < len(pattern):
        is_escaped = pattern[at] == escape
        at += is_escaped
        marks.append((pattern[at], is_escaped))
        at += 1

    @cache
    def rest(i, j):
        if j == len(marks):
            return i == len(text)
        mark, is_escaped = marks[j]
        if mark == "%" and not is_escaped:
            return rest(i, j + 1) or (i < len(text) and rest(i + 1, j))
        return i < len(text) and (text[i] == mark or (mark == "_" and not is_escaped)) and rest(i + 1, j + 1)

    return T if rest(0, 0) else F


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


NUMBERS = st.sampled_from(["0", "1", "2", "-3", "10", "2.50", ".5", "1e3", "7.", "9" * 20, "1e300", "1E-5", "+4"])
NAMES = st.sampled_from(["a", "b", "$c.d", "x-y"])
letters = st.text("ab%_!'é", max_size=4)
contents = st.one_of(
    st.none(), NUMBERS.map(str.encode), letters.map(str.encode), st.sampled_from([b"\xff", b"1_0", b"inf", b" 1", b""])
)
some_headers = st.lists(st.tuples(NAMES, contents), max_size=6)


def field(name):
    def value(headers):
        return next((content for held, content in reversed(headers) if held == name), None)

    return Node(f'"{name}"' if "-" in name else name, value)


def constant(text, value):
    return Node(text, lambda headers: value)


leaves = st.one_of(
    NAMES.map(field),
    NAMES.map(field),
    NUMBERS.filter(lambda n: n[0] not in "+-").map(lambda n: constant(n, as_number(n))),
    letters.map(lambda t: constant(quoted(t), t)),
    st.just(constant("NULL", None)),
)


def arithmetic(inner):
    binary = st.builds(
        lambda sign, a, b: Node(
            f"({a.text} {sign} {b.text})", lambda headers: combined(sign, a.value(headers), b.value(headers))
        ),
        st.sampled_from("+-*/"), inner, inner,
    )  # fmt: skip
    return binary | inner.map(lambda a: Node(f"(- {a.text})", lambda headers: combined("-", 0, a.value(headers))))


def is_number(node):
    return node.text[0] == "(" or node.text[0] in string.digits + "."


operands = st.recursive(leaves, arithmetic, max_leaves=4)
signs = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
NOTS = st.sampled_from(["", "NOT "])


def between(a, no, low, high):
    def value(headers):
        x, y, z = (node.value(headers) for node in (a, low, high))
        found = min(related(">=", x, y), related("<=", x, z))
        return 1 - found if no else found

    return Node(f"{a.text} {no}BETWEEN {low.text} AND {high.text}", value)


def among(a, no, items):
    def value(headers):
        found = max(related("=", a.value(headers), item.value(headers)) for item in items)
        return 1 - found if no else found

    return Node(f"{a.text} {no}in ({', '.join(item.text for item in items)})", value)


def likened(a, no, pattern, escape):
    assume(not is_number(a))
    if escape:
        pattern = "".join(c if c != escape else c * 2 for c in pattern)

    def value(headers):
        text = as_text(a.value(headers))
        found = U if text is None else alike(text, pattern, escape)
        return 1 - found if no else found

    return Node(f"{a.text} {no}LIKE {quoted(pattern)}" + (f" ESCAPE '{escape}'" if escape else ""), value)


def nullness(a, no):
    def value(headers):
        seen = a.value(headers)
        found = T if seen is None or as_text(seen) is None else F
        return 1 - found if no else found

    return Node(f"{a.text} IS {no}NULL", value)


def comparison(a, sign, b):
    return Node(f"{a.text} {sign} {b.text}", lambda headers: related(sign, a.value(headers), b.value(headers)))


tests = st.one_of(
    st.builds(comparison, operands, signs, operands),
    st.builds(between, operands, NOTS, operands, operands),
    st.builds(among, operands, NOTS, st.lists(operands, min_size=1, max_size=4)),
    st.builds(likened, leaves, NOTS, letters, st.sampled_from(["", "", "!", "%"])),
    st.builds(nullness, operands, NOTS),
    st.sampled_from([constant("TRUE", T), constant("FALSE", F), constant("NULL", U)]),
)


def logic(inner):
    def both(a, b):
        return Node(f"({a.text}) AND ({b.text})", lambda headers: min(a.value(headers), b.value(headers)))

    def either(a, b, c):
        values = (a.value, b.value, c.value)
        return Node(f"({a.text}) or ({b.text}) OR ({c.text})", lambda headers: max(v(headers) for v in values))

    return st.one_of(
        st.builds(both, inner, inner),
        st.builds(either, inner, inner, inner),
        inner.map(lambda a: Node(f"NOT ({a.text})", lambda headers: 1 - a.value(headers))),
    )


@settings(max_examples=600, deadline=None)
@given(st.recursive(tests, logic, max_leaves=5), st.lists(some_headers, min_size=1, max_size=4))
def test_any_expression_means_what_the_rules_say(node, many):
    """Random expressions on random records, against an evaluator that is only simple."""
    for headers in many:
        expected = {T: True, U: None, F: False}[node.value(headers)]
        assert truth(node.text, StoredRecord(0, 0, None, None, headers)) is expected, node.text


def test_like_means_what_the_rules_say():
    """The search by pieces finds what trying everything finds: all short patterns on all short texts."""
    texts = ["".join(letters) for size in range(5) for letters in product("ab", repeat=size)]
    patterns = ["".join(marks) for size in range(6) for marks in product("ab%_", repeat=size)]
    for pattern in [*patterns, "%aa%a%", "%ab%b%", "%aa%aa%", "%a_%_b%", "a%_a%b"]:
        match = like.parse(pattern).match
        for text in texts:
            assert match(text, FILTER_STEPS_MAX) is (alike(text, pattern, "") == T), (pattern, text)


def test_like_counts_what_it_searches():
    """Each piece pays for the characters that are passed, a long one more."""
    text = "x" * 1_000 + "a" + "x" * 1_000 + "b"
    assert like.parse("%a%b%").match(text, 2_200) is True
    assert like.parse("%a%b%").match(text, 1_500) is None
    assert like.parse("%" + "b" * 160 + "%").match("a" * 10_000, 50_000) is None
    assert like.parse("%" + "b" * 160 + "%").match("a" * 10_000, 200_000) is False


WORDS = st.sampled_from(
    ["a", "'x'", "5", "1e9", "(", ")", "AND", "or", "NOT", "IN", ",", "LIKE", "'%'", "ESCAPE", "IS", "NULL", "BETWEEN",
     "=", "<>", "<", "-", "+", "*", "/", "||", "TRUE", "TAG", '"q-r"', "`", "'", "\"", ".", "é", "\ud800", "\x00"]
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(WORDS, max_size=14).map(" ".join), st.lists(WORDS).map("".join)))
def test_any_text_is_a_filter_or_refused(text):
    """Nothing but `InvalidFilter` is raised, and a filter answers."""
    try:
        wanted = compile_filter(text)
    except InvalidFilter as error:
        wanted = error.message
    if isinstance(wanted, Filter):
        assert wanted.matches(record()) in (True, False)
    else:
        assert wanted.isprintable()  # it must travel, whatever it quotes


HARD = [
    compile_filter(text)
    for text in (
        "a = 1 AND NOT b > c OR KEY LIKE '%x_y%' AND TIMESTAMP / a > 2", "a = b", "a IN (b, 1, 'x', TRUE)",
        "a * b * a * b * a * b > 1e300", "a BETWEEN b AND c", "(a = TRUE) <> (b IS NULL)", "TAG = KEY", "x || y", "*",
    )
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", "dduomq-tag", ""]), st.none() | st.binary(max_size=80)
             | st.from_regex(rb"[+-]?[0-9]{1,70}(\.[0-9]+)?([eE][+-]?[0-9]{1,9})?", fullmatch=True))),
    st.none() | st.binary(max_size=20), st.integers(-(2**63), 2**63 - 1),
)  # fmt: skip
def test_no_record_raises(headers, key, timestamp_ms):
    """Whatever bytes stand in a record."""
    seen = StoredRecord(0, timestamp_ms, key, None, headers)
    for wanted in HARD:
        assert wanted.matches(seen) in (True, False)
