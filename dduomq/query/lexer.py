"""A filter's text, cut into tokens; errors that point at a place in it.

Always true: every character is part of one token or white space, or `InvalidFilter` is raised; the last token
is `END`. No token is looked at twice, so that cutting takes time by the text's length and no more.
"""

import re

import attrs

from dduomq.errors import InvalidFilter

# A token's `sign` is an operator or keyword as written here, or one of these, which no keyword can be.
NAME, QUOTED, NUMBER, TEXT, END = "name", "quoted", "number", "text", "end"
KEYWORDS = frozenset({"AND", "OR", "NOT", "BETWEEN", "IN", "LIKE", "ESCAPE", "IS", "NULL", "TRUE", "FALSE"})

_NEAR_CHARACTERS_MAX = 20
_SPACE = re.compile(r"\s+")
_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$]*")
_NUMBER = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SIGN = re.compile(r"<>|!=|<=|>=|[-+*/=<>(),]")


@attrs.frozen(slots=True)
class Token:
    """One word or sign. `value` is a name, number or text without its quotes; `at` counts from 0."""

    sign: str
    value: str
    at: int


def fault(text: str, at: int, what: str) -> InvalidFilter:
    """The error that points at a place in a filter; people count from 1. What can't be printed is shown as `?`."""
    near = text[at : at + _NEAR_CHARACTERS_MAX].split()
    place = f'near "{near[0]}"' if near else "the end"
    message = f"filter, at character {at + 1}, {place}: {what}"
    return InvalidFilter("".join(c if c.isprintable() else "?" for c in message))


def tokens(text: str) -> list[Token]:
    """All tokens of an expression; raises `InvalidFilter`."""
    found = []
    at = 0
    while at < len(text):
        if space := _SPACE.match(text, at):
            at = space.end()
            continue
        token, at = _token(text, at)
        found.append(token)
    found.append(Token(END, "", at))
    return found


def _token(text: str, at: int) -> tuple[Token, int]:
    """The token that begins at `at`, and where it ends."""
    first = text[at]
    if first == "'":
        value, end = _quoted(text, at, "text")
        return Token(TEXT, value, at), end
    if first in '"`':
        value, end = _quoted(text, at, "name")
        if not value:
            raise fault(text, at, "expected a header's name between the quotes")
        return Token(QUOTED, value, at), end
    if name := _NAME.match(text, at):
        word = name[0].upper()
        return Token(word if word in KEYWORDS else NAME, name[0], at), name.end()
    if number := _NUMBER.match(text, at):
        if _NAME.match(text, number.end()):
            raise fault(text, at, "expected a number without letters, or a text in '...'")
        return Token(NUMBER, number[0], at), number.end()
    if sign := _SIGN.match(text, at):
        return Token("<>" if sign[0] == "!=" else sign[0], sign[0], at), sign.end()
    if text.startswith("||", at):
        raise fault(text, at, "|| joins tags only; in an expression write TAG IN ('...', '...')")
    raise fault(text, at, "expected a text in '...', a header's name in \"...\", a number or an operator")


def _quoted(text: str, at: int, what: str) -> tuple[str, int]:
    """What stands between two quotes, a doubled quote being one of its characters; and where it ends."""
    quote = text[at]
    begin = end = at + 1
    while (end := text.find(quote, end)) >= 0:
        if not text.startswith(quote, end + 1):
            return text[begin:end].replace(quote * 2, quote), end + 1
        end += 2
    raise fault(text, at, f"this {what} does not end; expected {quote} behind it")
