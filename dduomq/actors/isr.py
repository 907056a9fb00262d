"""Writing the records of partitions: what their leaders want changed, by compare-and-set.

A task with a queue, no actor, since the metadata must be waited for; the outcome goes to the partition as a message.
Always true: of one partition one change is on its way, and the one that comes after it replaces those that wait; an
outcome is told when it is certain. After no answer (`MetadataUnknown`) the same transaction is tried again: both rest
on the same version, so that one of them holds at most.
"""

from collections.abc import Iterable

import structlog
import trio

from dduomq.actors.actor import Mailbox
from dduomq.actors.replica_messages import Change, CheckReplicas, RecordWritten
from dduomq.cluster.image import NODES, PartitionRecord, decode_partition, encode_partition
from dduomq.cluster.ports import (
    Check,
    MetadataConflict,
    MetadataStore,
    MetadataUnavailable,
    Operation,
    Put,
)
from dduomq.errors import DduomqError
from dduomq.limits import ISR_BACKOFF_MS, ISR_BACKOFF_MS_MAX, REPLICA_CHECK_MS, TXN_OPERATIONS_MAX

STEP_MS = 250


class RecordWriter:
    """A `dduomq.actors.replica_messages.Changes`. `run` does the work, until cancelled."""

    def __init__(
        self, store: MetadataStore, log: structlog.stdlib.BoundLogger, check_ms: int = REPLICA_CHECK_MS
    ) -> None:  # fmt: skip
        self._store = store
        self._log = log
        self._check_ms = check_ms
        self._waiting: dict[int, Change] = {}  # by the mailbox, which outlives its actor
        self._under_way: set[int] = set()
        self._leading: dict[int, Mailbox] = {}
        self._news = trio.Event()

    def propose(self, change: Change) -> None:
        """See `Changes.propose`."""
        self._waiting[id(change.mailbox)] = change
        self._news.set()

    def lead(self, mailbox: Mailbox) -> None:
        """See `Changes.lead`."""
        self._leading[id(mailbox)] = mailbox

    def unlead(self, mailbox: Mailbox) -> None:
        """It is asked about its followers no more, and what it wanted changed and is not on its way is dropped."""
        self._leading.pop(id(mailbox), None)
        self._waiting.pop(id(mailbox), None)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check)
            while True:
                self._news = trio.Event()
                ready = [key for key in self._waiting if key not in self._under_way]
                if not ready:
                    await self._news.wait()
                    continue
                taken = [self._waiting.pop(key) for key in self._for_one_transaction(ready)]
                self._under_way.update(id(change.mailbox) for change in taken)
                nursery.start_soon(self._write_all, taken)

    def _for_one_transaction(self, ready: list[int]) -> list[int]:
        """The first of those that are ready, as many as an engine takes at once; one at least."""
        count = size = 0
        for key in ready:
            size += 2 + len(self._waiting[key].epochs)
            if size > TXN_OPERATIONS_MAX:
                break
            count += 1
        return ready[: max(count, 1)]

    async def _check(self) -> None:
        """Each once in `check_ms`, spread evenly."""
        position = 0.0
        while True:
            await trio.sleep(min(STEP_MS, self._check_ms) / 1000)
            mailboxes = list(self._leading.values())
            if not mailboxes:
                continue
            before = position
            position += min(len(mailboxes) * STEP_MS / self._check_ms, len(mailboxes))
            for at in range(int(before), int(position)):
                mailboxes[at % len(mailboxes)].offer(CheckReplicas())
            position %= len(mailboxes)

    # --- writing ------------------------------------------------------------------------------------

    async def _write_all(self, changes: list[Change]) -> None:
        """All in one transaction; if that does not hold, each on its own."""
        try:
            may_hold = False
            if len(changes) > 1:
                may_hold, is_done = await self._write_together(changes)
                if is_done:
                    return
            async with trio.open_nursery() as nursery:
                for change in changes:
                    nursery.start_soon(self._write, change, may_hold)
        finally:
            self._under_way.difference_update(id(change.mailbox) for change in changes)
            self._news.set()

    async def _write_together(self, changes: list[Change]) -> tuple[bool, bool]:
        """Whether it may hold, or come to hold later; and whether it surely does."""
        try:
            version = await self._store.txn([one for change in changes for one in _operations(change)])
        except (MetadataConflict, MetadataUnavailable):
            return False, False
        except DduomqError:
            return True, False
        for change in changes:
            _tell(change, change.record, version)
        return True, True

    async def _write(self, change: Change, may_hold: bool) -> None:
        """One change, until its outcome is certain."""
        pause_ms = ISR_BACKOFF_MS
        while True:
            try:
                version = await self._store.txn(list(_operations(change)))
            except MetadataConflict:
                break
            except MetadataUnavailable as error:
                if not may_hold:
                    self._log.warning("record_not_written", partition=change.mailbox.name, reason=error.message)
                    await trio.sleep(ISR_BACKOFF_MS_MAX / 2000)
                    _tell(change, None, change.version)
                    return
            except DduomqError as error:
                may_hold = True
                reason = error.message
                self._log.warning("record_unknown", partition=change.mailbox.name, reason=reason)
            else:
                _tell(change, change.record, version)
                return
            await trio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 2, ISR_BACKOFF_MS_MAX)
        await self._tell_newest(change)

    async def _tell_newest(self, change: Change) -> None:
        """The version was another one, or a node was not what it had been: what holds now is in the metadata."""
        pause_ms = ISR_BACKOFF_MS
        while True:
            try:
                found = await self._store.get(change.record.key)
            except DduomqError:
                await trio.sleep(pause_ms / 1000)
                pause_ms = min(pause_ms * 2, ISR_BACKOFF_MS_MAX)
                continue
            if found is None:
                _tell(change, None, change.version)
            else:
                _tell(change, decode_partition(found.value), found.version)
            return


def _operations(change: Change) -> Iterable[Operation]:
    key = change.record.key
    yield Check(key, change.version)
    for node, epoch in change.epochs.items():
        yield Check(f"{NODES}{node}", epoch)
    yield Put(key, encode_partition(change.record))


def _tell(change: Change, record: PartitionRecord | None, version: int) -> None:
    change.mailbox.post(RecordWritten(serial=change.serial, record=record, version=version))
