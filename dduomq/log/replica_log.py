"""The log of one replica of several: it takes batches as its leader has placed them, and is told its high watermark.

Always true: a batch goes where it lay in the leader's log, with its offsets, its leader epoch and its bytes; the
high watermark starts where it was last known to be, never at the end of the log. Batches may have holes inside, as
records that come later and compaction leave them; between two batches there is none.
"""

from collections.abc import Sequence
from typing import Any

from dduomq.errors import CorruptMessage, InvalidProducerEpoch, InvariantBroken
from dduomq.log import txn_index
from dduomq.log.draft import Draft, Ended, Placed
from dduomq.log.epochs import EpochCache
from dduomq.log.files import Files
from dduomq.log.plans import PendingBatch, Replace, Steps, WritePlan, decode_number, encode_number
from dduomq.log.plog import RELATIVE_OFFSET_MAX, Appended, PartitionLog
from dduomq.log.producers import NO_OFFSET
from dduomq.log.recover import RecoveryReport, open_log
from dduomq.log.settings import TopicSettings
from dduomq.log.txn_index import ABORT
from dduomq.wire.batch import NO_PRODUCER_ID

HIGH_WATERMARK = "high-watermark"


class ReplicaLog(PartitionLog):
    """A `PartitionLog` whose records count only when the in-sync replicas have them."""

    __slots__ = ("_epochs_to_be", "_high_watermark_saved")

    def __init__(self, directory: str, settings: TopicSettings, **known: Any) -> None:
        super().__init__(directory, settings, **known)
        self.high_watermark = self.log_start_offset
        self._high_watermark_saved = -1
        self._epochs_to_be: EpochCache | None = None

    @property
    def last_epoch(self) -> int:
        """The leader epoch of its last record, -1 for an empty log."""
        return self.epochs.latest if self.log_end_offset > self.log_start_offset else -1

    @property
    def damaged_from(self) -> int | None:
        """The first offset that the disk has spoilt, None if all is well."""
        return min((held.first for held in self._damages if held.end > self.log_start_offset), default=None)

    # --- what the leader sent -----------------------------------------------------------------------

    def plan_replicate(self, batches: Sequence[PendingBatch], now_ms: int) -> WritePlan:
        """One write of the first of these batches: as many as one segment takes; `outcomes` are theirs.

        Raises `CorruptMessage` for a batch that does not go where this log ends, or of an epoch that is over.
        """
        if self._planned:
            raise InvariantBroken("a write plan is in flight already")
        taken = self._of_one_segment(batches)
        rolled = self._rolled(taken, now_ms)
        active = rolled or self.active
        epochs = EpochCache(self.epochs.entries)
        draft = Draft(rolled)
        offset, position = self.log_end_offset, active.size
        outcomes: list[Appended] = []
        for batch in taken:
            header = batch.header
            if header.base_offset != offset or header.leader_epoch < epochs.latest:
                raise CorruptMessage(
                    f"a batch of offset {header.base_offset}, epoch {header.leader_epoch} can't follow offset "
                    f"{offset - 1}, epoch {epochs.latest}"
                )
            epochs.assign(header.leader_epoch, offset)
            self._remember(batch, now_ms, draft)
            draft.placed.append(Placed(header, offset, position, header.max_timestamp))
            outcomes.append(Appended(offset, header.last_offset, -1))
            offset, position = header.next_offset, position + header.size
        self._epochs_to_be = epochs
        try:
            return self._write_plan(active, draft, list(outcomes), [b.view for b in taken], offset, position)
        finally:
            self._epochs_to_be = None

    def _of_one_segment(self, batches: Sequence[PendingBatch]) -> list[PendingBatch]:
        """The batches up to where a segment is full, one at least."""
        size = self.active.size
        base = self.active.base_offset
        taken: list[PendingBatch] = []
        for batch in batches:
            size += batch.header.size
            is_full = size > self.settings.segment_bytes or batch.header.last_offset - base > RELATIVE_OFFSET_MAX
            if is_full and taken:
                break
            if is_full:  # the first one begins a new segment
                size, base = batch.header.size, batch.header.base_offset
            taken.append(batch)
        return taken

    def _remember(self, batch: PendingBatch, now_ms: int, draft: Draft) -> None:
        """The producers as they are behind this batch: it has been judged by the leader."""
        header, overlay = batch.header, draft.overlay
        pid = header.producer_id
        if pid == NO_PRODUCER_ID:
            return
        if not header.is_control:
            overlay[pid] = self.producers.after(header, header.base_offset, now_ms, overlay)
            return
        try:
            overlay[pid], first = self.producers.ended(header, now_ms, overlay)
        except InvalidProducerEpoch:  # a late marker: recovery passes it over, too
            return
        if first != NO_OFFSET:
            still_open = self.producers.first_open_offset(overlay)
            stable = header.next_offset if still_open is None else still_open
            is_abort = txn_index.marker_of(batch.view) == ABORT
            draft.ended.append(Ended(pid, first, header.last_offset, stable, is_abort))

    def _new_epoch(self) -> EpochCache | None:
        if self._epochs_to_be is None:
            return super()._new_epoch()
        return self._epochs_to_be if self._epochs_to_be.entries != self.epochs.entries else None

    # --- the high watermark -------------------------------------------------------------------------

    def begin(self, high_watermark: int) -> None:
        """Where it is known to have been: not below the log's start, nor behind its end."""
        self.high_watermark = max(self.log_start_offset, min(high_watermark, self.log_end_offset))

    def plan_checkpoint(self) -> Steps | None:
        steps = super().plan_checkpoint()
        if self._high_watermark_saved == self.high_watermark:
            return steps
        return Steps((*(() if steps is None else steps.steps), self._save_high_watermark()))

    def plan_close(self) -> Steps:
        return Steps((*super().plan_close().steps, self._save_high_watermark()))

    def _save_high_watermark(self) -> Replace:
        self._high_watermark_saved = self.high_watermark
        return Replace(f"{self.directory}/{HIGH_WATERMARK}", encode_number(self.high_watermark))


def open_replica(
    files: Files,
    directory: str,
    settings: TopicSettings,
    *,
    leader_epoch: int,
    topic_id: str,
    clean: bool,
    now_ms: int,
    restore: bool = False,
    high_watermark: int = -1,
) -> tuple[ReplicaLog, RecoveryReport]:
    """As `open_log`. `high_watermark`: as its owner last knew it; the disk may know of a newer one."""
    log, report = open_log(
        files, directory, settings, leader_epoch=leader_epoch, topic_id=topic_id, clean=clean, now_ms=now_ms,
        restore=restore, make=ReplicaLog,
    )  # fmt: skip
    path = f"{directory}/{HIGH_WATERMARK}"
    saved = (decode_number(files.read(path)) if files.exists(path) else None) or 0
    log.begin(max(high_watermark, saved))
    return log, report
