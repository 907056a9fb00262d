"""What the broker asks of a metadata engine; one conformance suite runs against every one.

Always true: keys are '/'-separated text, values bytes; each key has a version that grows with every write of
it. A transaction is applied whole or not at all.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

import attrs

from dduomq.errors import DduomqError


class MetadataConflict(DduomqError):
    """Somebody else changed the metadata first; nothing was applied."""

    code = 1110
    retriable = True


class MetadataUnavailable(DduomqError):
    """The metadata engine can't be reached; nothing was applied."""

    code = 1111
    retriable = True


class MetadataUnknown(DduomqError):
    """The metadata engine gave no answer; read again to see what holds."""

    code = 1112
    retriable = True


@attrs.frozen
class Put:
    key: str
    value: bytes


@attrs.frozen
class Del:
    key: str


@attrs.frozen
class Check:
    """The transaction holds only if `key` is at `version`; 0 means it must not exist."""

    key: str
    version: int


Operation: TypeAlias = Put | Del | Check


@attrs.frozen
class Versioned:
    key: str
    value: bytes
    version: int


@attrs.frozen
class Changed:
    """One key's newest state. `value` None: it is gone."""

    key: str
    value: bytes | None
    version: int


@attrs.frozen
class Resync:
    """The watcher fell behind, or has just begun: scan again, then go on with what follows."""


class MetadataStore(Protocol):
    """Consistent. Every method may raise `MetadataUnavailable`, `txn` also Conflict and Unknown."""

    async def get(self, key: str) -> Versioned | None: ...

    async def scan(self, prefix: str) -> list[Versioned]: ...

    async def txn(self, operations: Sequence[Operation]) -> int:
        """Apply all of it, durably; the version that every written key now has."""

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[Changed | Resync]]:
        """Changes in the order of each key, newest state only; begins with `Resync`."""
