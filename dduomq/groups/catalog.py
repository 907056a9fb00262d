"""What a group's machine is told of the topics there are."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Protocol

from dduomq.errors import InvalidRegularExpression
from dduomq.groups.assignors import Assignable
from dduomq.limits import PATTERN_BYTES_MAX

PATTERNS_REMEMBERED = 100


class Catalog(Protocol):
    """`version` is another object when any topic has come, gone or grown."""

    @property
    def version(self) -> object: ...

    def topic(self, name: str) -> Assignable | None: ...

    def names(self) -> Iterable[str]:
        """The topics that a pattern may match: internal ones are not among them."""


@lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> Any:
    """RE2's: it matches in linear time, whatever the pattern. Raises `InvalidRegularExpression`."""
    import re2  # loaded when the first group subscribes by a pattern

    if len(pattern) > PATTERN_BYTES_MAX:
        raise InvalidRegularExpression(f"a pattern has at most {PATTERN_BYTES_MAX} characters, not {len(pattern)}")
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)  # type: ignore[no-untyped-call]
    except re2.error as error:
        text = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error.args[0])
        raise InvalidRegularExpression(f"{pattern!r} is not a regular expression of RE2's: {text}") from None


class Found:
    """The topics that patterns find: each pattern is tried once, for as long as the topics stay."""

    __slots__ = ("_topics", "_version")

    def __init__(self) -> None:
        self._version: object = None
        self._topics: dict[str, list[str]] = {}

    def by(self, pattern: str, catalog: Catalog) -> list[str]:
        """The topics whose whole name matches."""
        if self._version is not catalog.version or len(self._topics) > PATTERNS_REMEMBERED:
            self._version, self._topics = catalog.version, {}
        if pattern not in self._topics:
            compiled = compile_pattern(pattern)
            self._topics[pattern] = [name for name in catalog.names() if compiled.fullmatch(name)]
        return self._topics[pattern]
