"""Filters: which records of a topic a reader wants, by their tag or by an expression on their headers.

Always true: a text becomes a `Filter` or `InvalidFilter`, which points at the place; a filter answers for every
record, and "unknown" is no match.

A text of tag names joined by `||`, one name alone, or `*` (all records) is a list of tags; a name has letters,
digits and `_ - . :`. Everything else is an expression, with SQL92's meaning:

    condition  = condition OR condition | condition AND condition | NOT condition | ( condition ) | TRUE | FALSE
               | value (= | <> | != | < | <= | > | >=) value | value IS [NOT] NULL
               | value [NOT] BETWEEN value AND value | value [NOT] IN ( value , ... )
               | value [NOT] LIKE 'text' [ESCAPE 'character']
    value      = value (+ | - | * | /) value | - value | ( value ) | 'text' | number | NULL | name | "name" | `name`

Keywords may be written small. A name is a header's, its case counts, and the last header of that name is meant;
KEY, TAG (or TAGS) and TIMESTAMP (milliseconds) are the record's own, unless quoted. A name with a hyphen must be
quoted. A header is text: compared with a number it is one, if its text is one, else NULL; so with TRUE and
FALSE; two headers are compared as numbers if both are numbers. NULL is also what is not UTF-8 or longer than
`FILTER_VALUE_BYTES_MAX`, a division by zero, a number too large, and a LIKE that takes too many steps.
"""

import re
from collections.abc import Callable
from typing import TypeAlias

import attrs

from dduomq.errors import InvalidFilter
from dduomq.limits import FILTER_CHARACTERS_MAX, FILTER_DEPTH_MAX, FILTER_NODES_MAX, FILTER_STEPS_MAX
from dduomq.query import lexer, like, terms
from dduomq.query.terms import Kind, Operand, Properties, Run

_TAG = re.compile(r"[A-Za-z0-9_.:-]+")
_OWN_FIELDS: dict[str, tuple[Kind, Run]] = {
    "KEY": (Kind.FIELD, terms.key),
    "TAG": (Kind.FIELD, terms.header(terms.TAG_HEADER)),
    "TAGS": (Kind.FIELD, terms.header(terms.TAG_HEADER)),
    "TIMESTAMP": (Kind.NUMBER, terms.timestamp),
}
# How tightly an operator binds. Those of a test do not follow one another: `a = b = c` is refused.
_OR, _AND, _NOT, _TEST, _SUM, _PRODUCT, _SIGN = 1, 2, 3, 4, 5, 6, 7
_RANKS = {
    "OR": _OR, "AND": _AND, "+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT,
    **dict.fromkeys([*terms.COMPARISONS, "IS", "NOT", "BETWEEN", "IN", "LIKE"], _TEST),
}  # fmt: skip
_Infix: TypeAlias = Callable[["_Parser", Operand, lexer.Token], Operand]


@attrs.frozen(slots=True)
class Filter:
    """Which records are wanted. `takes_all`: every record, so that none needs to be looked at."""

    text: str
    _run: Run
    takes_all: bool = False

    def matches(self, view: Properties) -> bool:
        """Whether this record is wanted; never raises."""
        return self._run(view) is True


def compile_filter(text: str) -> Filter:
    """Read a filter once, to ask it often; raises `InvalidFilter`."""
    if len(text) > FILTER_CHARACTERS_MAX:
        raise InvalidFilter(f"a filter has at most {FILTER_CHARACTERS_MAX} characters, this one has {len(text)}")
    if not text.strip():
        raise InvalidFilter("the filter is empty; * takes all records")
    if text.strip() == "*":
        return Filter(text, terms.always(True), takes_all=True)
    names = [name.strip() for name in text.split("||")]
    if all(_TAG.fullmatch(name) for name in names):
        return Filter(text, _tagged(frozenset(name.encode() for name in names)))
    return Filter(text, _Parser(text).parse())


def _tagged(wanted: frozenset[bytes]) -> Run:
    tag = terms.header(terms.TAG_HEADER)
    return lambda record: tag(record) in wanted


class _Parser:
    """Reads an expression by the operators' ranks, and makes its functions on the way.

    `_expression(rank)` reads what binds tighter than `rank`; `_inside` counts how deep it is in itself.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = lexer.tokens(text)
        self._next = 0
        self._inside = 0
        self._nodes = 0
        likes = sum(token.sign == "LIKE" for token in self._tokens)
        self._steps = FILTER_STEPS_MAX // max(likes, 1)

    def parse(self) -> Run:
        whole = self._expression(0)
        if self._token.sign != lexer.END:
            raise self._misplaced(whole, "the end of the filter")
        return self._condition(whole).run

    # --- tokens ---

    @property
    def _token(self) -> lexer.Token:
        return self._tokens[self._next]

    def _take(self) -> lexer.Token:
        token = self._token
        self._next += token.sign != lexer.END
        return token

    def _accept(self, sign: str) -> bool:
        if self._token.sign != sign:
            return False
        self._next += 1
        return True

    def _expect(self, sign: str, what: str) -> lexer.Token:
        if self._token.sign != sign:
            raise self._fault(self._token.at, f"expected {what}")
        return self._take()

    def _fault(self, at: int, what: str) -> InvalidFilter:
        return lexer.fault(self._text, at, what)

    def _misplaced(self, before: Operand, end: str) -> InvalidFilter:
        """Something follows that can't: say what could, by what stands before it."""
        if before.kind is Kind.TRUTH:
            return self._fault(self._token.at, f"expected AND, OR or {end}")
        return self._fault(self._token.at, "expected a comparison, as = or IN or LIKE or IS NULL, or an operator")

    # --- operands ---

    def _made(self, kind: Kind, run: Run, at: int, *parts: Operand, constant: terms.Value = None) -> Operand:
        """A node, counted."""
        self._nodes += 1
        if self._nodes > FILTER_NODES_MAX:
            raise self._fault(at, f"a filter has at most {FILTER_NODES_MAX} operands and operators")
        depth = 1 + max((part.depth for part in parts), default=0)
        self._check_depth(depth, at)
        return Operand(kind, run, at, depth, constant)

    def _check_depth(self, depth: int, at: int) -> None:
        if depth > FILTER_DEPTH_MAX:
            raise self._fault(at, f"a filter has at most {FILTER_DEPTH_MAX} operators or parentheses in one another")

    def _condition(self, operand: Operand) -> Operand:
        if operand.kind not in {Kind.TRUTH, Kind.NULL}:
            what = f"expected a condition, this is {operand.kind.value}; compare it, as in name = TRUE or TAG = 'name'"
            raise self._fault(operand.at, what)
        return operand

    def _value(self, operand: Operand) -> Operand:
        if operand.kind is Kind.TRUTH:
            raise self._fault(operand.at, "expected a value, this is a condition")
        return operand

    # --- reading ---

    def _expression(self, rank: int) -> Operand:
        self._inside += 1
        self._check_depth(self._inside, self._token.at)
        below = _NOT if self._token.sign == "NOT" else _SIGN  # what may follow binds less tightly than this
        left = self._prefix(rank)
        while rank < (found := _RANKS.get(self._token.sign, 0)) < below:
            left = self._infix(left, self._take(), found)
            if found == _TEST:
                below = _TEST
        self._inside -= 1
        return left

    def _prefix(self, rank: int) -> Operand:
        token = self._take()
        sign, at = token.sign, token.at
        if sign == "NOT" and rank <= _NOT:
            inner = self._condition(self._expression(_NOT))
            return self._made(Kind.TRUTH, terms.negate(inner.run), at, inner)
        if sign == "(":
            inner = self._expression(0)
            if not self._accept(")"):
                raise self._misplaced(inner, '")"')
            return attrs.evolve(inner, at=at)
        if sign == "-":
            return self._minus(at)
        if sign in {lexer.NAME, lexer.QUOTED}:
            kind, run = Kind.FIELD, terms.header(token.value)
            if sign == lexer.NAME:
                kind, run = _OWN_FIELDS.get(token.value, (kind, run))
            return self._made(kind, run, at)
        if sign in {"TRUE", "FALSE"}:
            return self._made(Kind.TRUTH, terms.always(sign == "TRUE"), at, constant=sign == "TRUE")
        if sign == "NULL":
            return self._made(Kind.NULL, terms.always(None), at)
        if sign == lexer.TEXT:
            return self._made(Kind.TEXT, terms.always(token.value), at, constant=token.value)
        if sign == lexer.NUMBER:
            number = terms.number_of(token.value)
            if number is None:
                raise self._fault(at, "expected a number that is smaller and shorter")
            return self._made(Kind.NUMBER, terms.always(number), at, constant=number)
        raise self._fault(at, "expected a header's name, a text, a number, TRUE, FALSE, NULL, NOT, - or (")

    def _minus(self, at: int) -> Operand:
        inner = self._value(self._expression(_PRODUCT))
        if isinstance(inner.constant, int | float):
            return self._made(Kind.NUMBER, terms.always(-inner.constant), at, inner, constant=-inner.constant)
        return self._made(Kind.NUMBER, terms.calculate("-", terms.always(0), inner.run), at, inner)

    def _infix(self, left: Operand, token: lexer.Token, rank: int) -> Operand:
        sign, at = token.sign, left.at
        if rank in {_AND, _OR}:
            return self._joined(left, sign, rank)
        if sign in terms.ARITHMETIC:
            right = self._value(self._expression(rank))
            run = terms.calculate(sign, self._value(left).run, right.run)
            return self._made(Kind.NUMBER, run, at, left, right)
        if sign in terms.COMPARISONS:
            right = self._comparable(left, self._expression(rank), sign)
            return self._made(Kind.TRUTH, terms.compare(sign, left, right), at, left, right)
        if sign == "IS":
            is_not = self._accept("NOT")
            self._expect("NULL", "NULL" if is_not else "NULL or NOT NULL")
            found = self._made(Kind.TRUTH, terms.is_null(left), at, left)
            return self._made(Kind.TRUTH, terms.negate(found.run), at, found) if is_not else found
        if sign != "NOT":
            return _TESTS[sign](self, left, token)
        if self._token.sign not in _TESTS:
            raise self._fault(self._token.at, "expected BETWEEN, IN or LIKE behind NOT")
        negated = _TESTS[self._token.sign](self, left, self._take())
        return self._made(Kind.TRUTH, terms.negate(negated.run), at, negated)

    def _joined(self, left: Operand, sign: str, rank: int) -> Operand:
        """`a AND b AND c` is one node with three parts: a long chain is not deep."""
        parts = [self._condition(left), self._condition(self._expression(rank))]
        while self._accept(sign):
            parts.append(self._condition(self._expression(rank)))
        run = terms.join([part.run for part in parts], decisive=sign == "OR")
        return self._made(Kind.TRUTH, run, left.at, *parts)

    def _comparable(self, left: Operand, right: Operand, sign: str) -> Operand:
        kinds = {left.kind, right.kind}
        if Kind.TRUTH in kinds and sign not in {"=", "<>"}:
            raise self._fault(left.at, f"conditions, TRUE and FALSE can be compared by = and <>, not by {sign}")
        if kinds == {Kind.TRUTH, Kind.NUMBER}:
            raise self._fault(left.at, "a condition and a number can't be compared")
        return right

    # --- tests ---

    def _between(self, left: Operand, token: lexer.Token) -> Operand:
        low = self._value(self._expression(_TEST))
        self._expect("AND", "AND and the upper bound")
        high = self._value(self._expression(_TEST))
        return self._made(Kind.TRUTH, terms.between(self._value(left), low, high), left.at, left, low, high)

    def _among(self, left: Operand, token: lexer.Token) -> Operand:
        self._expect("(", "( and the values")
        items = [self._comparable(left, self._expression(_TEST), "=")]
        while self._accept(","):
            items.append(self._comparable(left, self._expression(_TEST), "="))
        self._expect(")", '"," or ")"')
        return self._made(Kind.TRUTH, terms.among(left, items), left.at, left, *items)

    def _like(self, left: Operand, token: lexer.Token) -> Operand:
        if left.kind not in {Kind.FIELD, Kind.TEXT, Kind.NULL}:
            raise self._fault(left.at, f"expected a header or a text before LIKE, this is {left.kind.value}")
        wanted = self._expect(lexer.TEXT, "a pattern in '...'")
        escape = ""
        if self._accept("ESCAPE"):
            escaping = self._expect(lexer.TEXT, "one character in '...'")
            escape = escaping.value
            if len(escape) != 1:
                raise self._fault(escaping.at, "expected one character in '...'")
        pattern = like.parse(wanted.value, escape)
        if isinstance(pattern, int):
            raise self._fault(wanted.at, f"expected %, _ or {escape} behind each {escape} of the pattern")
        return self._made(Kind.TRUTH, like.like(left.run, pattern, self._steps), left.at, left)


_TESTS: dict[str, _Infix] = {"BETWEEN": _Parser._between, "IN": _Parser._among, "LIKE": _Parser._like}
