"""A coordinator's own log: its journal, written anew before it grows too long.

Always true: what lies before the log's start has been written anew behind it.
"""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from dduomq.actors.actor import Mailbox
from dduomq.actors.journal import Journal, JournalWorld, OnStored, Stored, each
from dduomq.actors.partition_messages import Acked
from dduomq.errors import DduomqError
from dduomq.groups import records
from dduomq.groups.records import Key
from dduomq.limits import GROUPS_REWRITE_BYTES
from dduomq.wire.records import StoredRecord

Entry: TypeAlias = tuple[Key, bytes | None]


class CoordinatorLog(Journal[Entry]):
    """`apply` is called for each entry at the start; `live` gives all entries that are so, group by group."""

    __slots__ = ("_live", "_rewriting", "_rewritten_at")

    def __init__(
        self,
        mailbox: Mailbox,
        world: JournalWorld,
        apply: Callable[[Key, bytes | None], None],
        live: Callable[[], Iterable[list[Entry]]],
    ) -> None:
        super().__init__(mailbox, world, each(_entry), lambda entry: apply(*entry))
        self._live = live
        self._rewriting = False
        self._rewritten_at = 0  # the journal's size then

    def store(self, entries: list[Entry], on_stored: OnStored) -> None:
        """Put records into the log; see `Journal.store_entries`."""
        self.store_entries([(records.encode_key(key), value, []) for key, value in entries], on_stored)

    def store_at_once(self, entries: list[Entry], on_stored: OnStored) -> None:
        """All of them or none; see `Journal.store_together`."""
        self.store_together([(records.encode_key(key), value, []) for key, value in entries], on_stored)

    def stored(self, message: Stored) -> None:
        super().stored(message)
        has_grown = self.size_bytes - self._rewritten_at > GROUPS_REWRITE_BYTES
        if has_grown and not self._rewriting and message.acked is not None:
            self._rewrite()

    def _rewrite(self) -> None:
        """Write the whole state anew; when that is stored, everything before it may go."""
        self._rewriting, self._rewritten_at = True, self.size_bytes
        parts = [part for part in self._live() if part]
        firsts: list[int] = []
        left = len(parts)

        def stored(result: Acked | DduomqError) -> None:
            nonlocal left
            left -= 1
            if isinstance(result, Acked):
                firsts.append(result.base_offset)
            if not left:
                self._rewriting, self._rewritten_at = False, self.size_bytes  # what was written for that is no growth
                if len(firsts) == len(parts):
                    self.purge(firsts[0])

        for part in parts:
            self.store(part, stored)
        if not parts:
            self._rewriting = False
            self.purge(-1)

    def restart(self, error: DduomqError) -> None:
        self._rewriting, self._rewritten_at = False, 0
        super().restart(error)


def _entry(record: StoredRecord) -> Entry | None:
    key = records.decode_key(record.key or b"")
    return None if key is None else (key, record.value)
