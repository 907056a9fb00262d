"""Filters at work: of what a fetch may read, the records that match.

Always true: the event loop filters small pieces only, a disk thread the others; a reader's position behind what it
gets is the same as without a filter.
"""

import attrs
import trio

from dduomq.actors.partition_messages import FetchPlan
from dduomq.limits import SIFT_INLINE_BYTES_MAX
from dduomq.listeners.services import Services
from dduomq.query.filter import Filter
from dduomq.query.sift import sift
from dduomq.wire.batch import COMPRESSION_MASK, iter_headers


@attrs.frozen
class Sifted:
    data: bytes
    records: int


async def sift_plan(services: Services, plan: FetchPlan, filter: Filter) -> Sifted:
    """The plan's batches with only those records that match. The plan's lease stays open."""
    assert plan.lease is not None
    data = memoryview(plan.lease.read(plan.position, plan.size))
    if plan.size <= SIFT_INLINE_BYTES_MAX and not any(h.attributes & COMPRESSION_MASK for _, h in iter_headers(data)):
        return _sift(data, filter)
    done = trio.Event()
    result: object = None

    def finished(found: object) -> None:
        nonlocal result
        result = found
        done.set()

    services.disk.submit(lambda: _sift(data, filter), finished)
    await done.wait()
    if isinstance(result, BaseException):
        raise result
    assert isinstance(result, Sifted)
    return result


def _sift(data: memoryview, filter: Filter) -> Sifted:
    chunks: list[bytes | memoryview] = []
    records = 0
    for at, header in iter_headers(data):
        batch = data[at : at + header.size]
        kept, count = sift(batch, filter.matches)
        chunks.append(batch if kept is None else kept)
        records += count
    return Sifted(b"".join(chunks), records)
