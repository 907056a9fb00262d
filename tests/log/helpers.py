"""Small words for log tests."""

from dduomq.log.memory import MemoryFiles
from dduomq.log.plog import PartitionLog, PendingBatch
from dduomq.log.recover import open_log
from dduomq.log.settings import TopicSettings
from dduomq.wire.batch import build, read_header

DIRECTORY = "data/topics/t-0"


def settings(**config):
    return TopicSettings.from_config({key.replace("_", "."): str(value) for key, value in config.items()})


def batch(size=100, *, count=1, timestamp=1_000, pid=-1, epoch=-1, sequence=-1, attributes=0):
    """A pending batch of `size` bytes of records."""
    data = build(
        b"x" * size,
        count=count,
        last_offset_delta=count - 1,
        base_timestamp=timestamp,
        max_timestamp=timestamp,
        producer_id=pid,
        producer_epoch=epoch,
        base_sequence=sequence,
        attributes=attributes,
    )
    return pending(data)


def pending(data):
    """A built batch as the log takes it."""
    view = memoryview(data)
    return PendingBatch(view, read_header(view))


def opened(files: MemoryFiles, *, clean=False, epoch=1, now_ms=2_000, restore=False, **config):
    """(log, report) of the one test log."""
    return open_log(
        files,
        DIRECTORY,
        settings(**config),
        leader_epoch=epoch,
        topic_id="id",
        clean=clean,
        now_ms=now_ms,
        restore=restore,
    )


def append(log: PartitionLog, files: MemoryFiles, *batches, now_ms=2_000, internal=False):
    """Write, flush and commit; the outcomes."""
    plan = log.plan_append(batches, now_ms, internal=internal)
    if plan.size:
        plan.run(files)
        log.written(plan, now_ms)
    flush = log.plan_flush()
    if flush is not None:
        flush.run(files)
        log.flushed(flush.end_offset)
    log.advance_high_watermark(log.flushed_offset)
    return plan.outcomes


def read_all(log: PartitionLog, files: MemoryFiles, offset=0, max_bytes=1_000, upper=None):
    """Base offsets of every batch that can be read from `offset` on."""
    from dduomq.wire.batch import check_batches

    found = []
    while True:
        plan = log.read_plan(offset, max_bytes, log.high_watermark if upper is None else upper)
        if plan is not None and hasattr(plan, "run"):
            plan = plan.run(files)
        if plan is None:
            return found
        data = files.read_at(plan.path, plan.position, plan.size)
        found += [header.base_offset for _, header in check_batches(data)]
        offset = plan.next_offset
