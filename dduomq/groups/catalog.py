"""What a group's machine is told of the topics there are."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Protocol

from dduomq.errors import InvalidRegularExpression
from dduomq.groups.assignors import Assignable
from dduomq.limits import PATTERN_BYTES_MAX


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


def matching(catalog: Catalog, pattern: str) -> list[str]:
    """The topics whose whole name matches."""
    compiled = compile_pattern(pattern)
    return [name for name in catalog.names() if compiled.fullmatch(name)]
