"""LIKE's patterns: `%` is any text, `_` any one character.

Always true: a match takes no more steps than it is given. The pieces between two `%` are looked for from left to
right, each at the first place where it fits: a later place could only leave less for the rest, so nothing is
ever tried again.
"""

import attrs

from dduomq.query.terms import Properties, Run, Truth, text_of

_CHARACTERS_PER_STEP = 16  # that the search for a piece may compare at one place
_STEPS_PER_LOOK = 8  # what a look at one place costs, in the time that the search takes to pass a character


@attrs.frozen(slots=True)
class Piece:
    """What stands between two `%`: its length, and its texts with their places; the rest of it is `_`."""

    length: int
    texts: tuple[tuple[int, str], ...]

    def fits(self, text: str, at: int) -> bool:
        for place, part in self.texts:  # noqa: SIM110 - `all` takes twice the time
            if not text.startswith(part, at + place):
                return False
        return True


@attrs.frozen(slots=True)
class Pattern:
    """A pattern ready to be matched: never empty; one piece alone is one without `%`."""

    pieces: tuple[Piece, ...]

    def match(self, text: str, steps: int) -> bool | None:
        """None if it would take more steps."""
        first, last = self.pieces[0], self.pieces[-1]
        if len(self.pieces) == 1:
            return len(text) == first.length and first.fits(text, 0)
        at, end = first.length, len(text) - last.length
        if at > end or not first.fits(text, 0) or not last.fits(text, end):
            return False
        for piece in self.pieces[1:-1]:
            found, steps = _find(piece, text, at, end, steps)
            if found is None or found < 0:
                return None if found is None else False
            at = found + piece.length
        return True


def _find(piece: Piece, text: str, at: int, end: int, steps: int) -> tuple[int | None, int]:
    """The first place between `at` and `end` where the piece fits, -1 if none, None if the steps ran out first;
    and the steps that are left."""
    if not piece.texts:
        return (at if at + piece.length <= end else -1), steps
    place, part = piece.texts[0]
    price = 1 + len(part) // _CHARACTERS_PER_STEP
    latest = end - piece.length + place + len(part)  # where the part must end at the latest
    while True:
        begin = at + place
        reach = begin + len(part) + steps // price
        hit = text.find(part, begin, min(latest, reach))
        if hit < 0:
            return (-1 if reach >= latest else None), 0
        steps -= (hit - begin + 1) * price + _STEPS_PER_LOOK * len(piece.texts)
        if piece.fits(text, hit - place):
            return hit - place, max(steps, 0)
        if steps <= 0:
            return None, 0
        at = hit - place + 1


def parse(pattern: str, escape: str = "") -> Pattern | int:
    """The pattern, or the place where its escape character stands before none of `%`, `_` and itself."""
    pieces: list[Piece] = []
    texts: list[tuple[int, str]] = []
    length = at = 0
    joined = False  # whether the last character was taken literally, so that the next one goes on with its text
    while at < len(pattern):
        character = pattern[at]
        literal = character not in "%_" or character == escape
        if character == escape:
            at += 1
            character = pattern[at : at + 1]
            if not character or character not in ("%", "_", escape):
                return at - 1
        at += 1
        if literal:
            place, text = texts.pop() if joined else (length, "")
            texts.append((place, text + character))
        elif character == "%":
            pieces.append(Piece(length, tuple(texts)))
            texts, length = [], -1
        length += 1
        joined = literal
    pieces.append(Piece(length, tuple(texts)))
    # `%%` is `%`: an empty piece in the middle fits everywhere
    return Pattern((*pieces[:1], *(piece for piece in pieces[1:-1] if piece.length), *pieces[1:][-1:]))


def like(load: Run, pattern: Pattern, steps: int) -> Truth:
    """Whether a text is like the pattern; NULL where that can't be told in so many steps."""
    match = pattern.match

    def run(record: Properties) -> bool | None:
        value = load(record)
        text = None if value is None else text_of(value)  # type: ignore[arg-type]
        return None if text is None else match(text, steps)

    return run
