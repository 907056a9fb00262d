"""Batches on their way into the partitions, whichever protocol they came by.

Nothing here waits but for a full mailbox, or for records that are to come later to be parked: each part becomes an
`Append`, and the last part's ack ends the request. Always true: a partition gets only whole batches with a right CRC;
nobody reads a record unless one of its batch may wish to come later.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from dduomq.actors.actor import Reply
from dduomq.actors.partition_messages import ALL_IN_SYNC, LEADER_ONLY, Acked, Append
from dduomq.errors import CorruptMessage, DduomqError, InvalidRecord, InvalidTopic, UnknownServerError
from dduomq.ids import INTERNAL_PREFIX
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.delaying import has_wishes, park_wishes
from dduomq.listeners.services import Services
from dduomq.log.plog import PendingBatch
from dduomq.wire.batch import OWN_PRODUCER_IDS, crc_of, read_header

Result: TypeAlias = Acked | DduomqError


class PendingProduce:
    """Collects the results of a request's parts; with the last one `done(results, is_clean)` is called.

    `is_clean`: the disk has surely let go of the request's buffer.
    """

    __slots__ = ("_done", "_is_clean", "_left", "_results")

    def __init__(self, count: int, done: Callable[[list[Result], bool], None]) -> None:
        self._results: list[Result] = [UnknownServerError()] * count
        self._left = count
        self._is_clean = True
        self._done = done
        if not count:
            done(self._results, True)

    def reply(self, at: int) -> Reply[Acked]:
        """Where the result of part `at` is to be put."""
        return Reply(partial(self._answered, at))

    def _answered(self, at: int, acked: Acked | None, error: BaseException | None) -> None:
        if acked is not None:
            self._results[at] = acked
        else:
            self._is_clean = False  # a disk thread may still be reading the buffer
            self._results[at] = error if isinstance(error, DduomqError) else UnknownServerError()
        self._left -= 1
        if not self._left:
            self._done(self._results, self._is_clean)


async def append(
    services: Services,
    context: Context,
    topic: str,
    partition: int,
    view: memoryview,
    deadline: float,
    reply: Reply[Acked],
    acks: int = ALL_IN_SYNC,
) -> None:
    """Ask a partition to append the one batch in `view`; whatever is wrong is the reply's error."""
    try:
        services.gate.admit(context, Operation.WRITE, topic)
        if topic.startswith(INTERNAL_PREFIX):
            raise InvalidTopic(f"topic {topic!r} is the broker's own: only it writes there")
        mailbox = services.routes.partition(topic, partition)
        batch = check_one_batch(view)
        route = services.routes.table[topic]
        if has_wishes(batch, route.settings):
            batch, reply = await park_wishes(services, route, partition, batch, deadline, reply)
    except DduomqError as error:
        reply.fail(error)
        return
    wanted = ALL_IN_SYNC if acks == ALL_IN_SYNC else LEADER_ONLY
    message = Append(batch=batch, deadline=deadline, reply=reply, size_bytes=len(batch.view), acks=wanted)
    if not mailbox.offer(message):
        await mailbox.put(message)


def check_one_batch(view: memoryview) -> PendingBatch:
    """The one whole batch that a part holds; raises `CorruptMessage` or `InvalidRecord` that says what is wrong."""
    header = read_header(view)
    if header.size < len(view):
        raise InvalidRecord(f"a part holds one batch; behind this one's {header.size} bytes are more")
    if header.size > len(view):
        raise CorruptMessage(f"a batch says it has {header.size} bytes, {len(view)} came; send it again")
    if crc_of(view, 0, header.size) != header.crc:
        raise CorruptMessage("the record batch has a wrong CRC: it was damaged on its way; send it again")
    if header.producer_id >= OWN_PRODUCER_IDS:
        raise InvalidRecord(f"producer id {header.producer_id} is the broker's own: ask it for one")
    if header.is_transactional:
        raise InvalidRecord("transactions are not spoken here yet: a batch can't be part of one")
    return PendingBatch(view, header)
