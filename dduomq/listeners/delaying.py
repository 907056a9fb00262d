"""Records that are to come later, on their way in: they are parked before the rest of their batch is stored.

Always true: a batch is acknowledged when both are durable; if the rest is refused, what was parked for it is taken
back; a batch that comes again is parked once.
"""

from collections.abc import Callable

import attrs
import trio

from dduomq.actors.actor import Reply, ask
from dduomq.actors.partition_messages import Acked
from dduomq.actors.routes import TopicRoute
from dduomq.actors.wheel_messages import Confirm, Park, ParkedMessages, Unpark
from dduomq.delay.records import NEW, NO_ORIGIN, Parked, Target
from dduomq.delay.split import Wish, may_have_wishes, split
from dduomq.errors import DduomqError, InvalidProducerEpoch, MessageTooLarge, OutOfOrderSequence
from dduomq.limits import DELAY_PARKED_BYTES_MAX, DELAY_SPLIT_INLINE_BYTES_MAX
from dduomq.listeners.services import Services
from dduomq.log.plog import PendingBatch
from dduomq.log.settings import DelayHeaders, TopicSettings
from dduomq.wire.batch import HEADER_BYTES, NO_PRODUCER_ID, read_header
from dduomq.wire.delay import delay_id
from dduomq.wire.records import size_of

DELIVERED_OVERHEAD_BYTES = 100  # what a message has more when it is delivered
PARKED_OVERHEAD_BYTES = 400  # and while it waits, with the name of its topic


def has_wishes(batch: PendingBatch, settings: TopicSettings) -> bool:
    """Whether the batch must be looked through."""
    mode = settings.delay_headers
    if mode is DelayHeaders.OFF or batch.header.size > settings.max_message_bytes:
        return False
    return may_have_wishes(batch.view, batch.header, compressed=mode is DelayHeaders.ALL)


async def park_wishes(
    services: Services,
    route: TopicRoute,
    partition: int,
    batch: PendingBatch,
    deadline: float,
    reply: Reply[Acked],
) -> tuple[PendingBatch, Reply[Acked]]:
    """What is to be stored now, and where its ack goes; the batch as it was if nobody wished for anything.

    Raises `InvalidDelay`, `MessageTooLarge`, `WheelNotAvailable`.
    """
    parts = await _split(services, batch)
    if parts is None:
        return batch, reply
    wishes, rest = parts
    target = Target(route.record.name, route.record.topic_id, partition)
    header = batch.header
    has_id = header.producer_id != NO_PRODUCER_ID
    origin = (header.producer_id, header.producer_epoch, header.base_sequence) if has_id else NO_ORIGIN
    messages = tuple(_parked(wish, target, origin) for wish in wishes)
    size = _check_sizes(messages, route.settings.max_message_bytes)
    number, wheel = await services.delays.wheel(target.topic_id, partition)
    parked: ParkedMessages = await ask(
        wheel, lambda reply: Park(messages=messages, deadline=deadline, size_bytes=size, reply=reply)
    )
    ids = tuple((wish.delta, delay_id(number, *pair)) for wish, pair in zip(wishes, parked.pairs, strict=True))

    def undo(error: BaseException | None) -> None:
        """One that may come again with its sequence finds its messages parked, if the outcome is open.

        A sequence that does not fit says that no try before has stored it: it may come again under another one.
        """
        is_open = isinstance(error, DduomqError) and error.retriable and has_id
        if (parked.is_new and not is_open) or isinstance(error, OutOfOrderSequence | InvalidProducerEpoch):
            wheel.post(Unpark(target=target, origin=origin, pairs=parked.pairs))

    def confirm() -> None:
        if has_id:
            wheel.offer(Confirm(target=target, origin=origin))

    return PendingBatch(memoryview(rest), read_header(rest), is_own=True), _told(reply, ids, confirm, undo)


def _parked(wish: Wish, target: Target, origin: tuple[int, int, int]) -> Parked:
    record = wish.record
    return Parked(wish.due_ms, NEW, -1, target, origin, record.key, record.value, record.headers)


def _check_sizes(messages: tuple[Parked, ...], bytes_max: int) -> int:
    """All together; each must fit into a batch of its own when its time comes."""
    sizes = [size_of(one.key, one.value, one.headers) + PARKED_OVERHEAD_BYTES for one in messages]
    largest = max(sizes) - PARKED_OVERHEAD_BYTES
    if largest + HEADER_BYTES + DELIVERED_OVERHEAD_BYTES > bytes_max:
        raise MessageTooLarge(
            f"a delayed record takes up to {largest} bytes; with what is added at its delivery that is more than "
            f"{bytes_max} (max.message.bytes)"
        )
    if sum(sizes) > DELAY_PARKED_BYTES_MAX:
        raise MessageTooLarge(
            f"the delayed records of one batch take {sum(sizes)} bytes, {DELAY_PARKED_BYTES_MAX} is the most: "
            "send them in smaller batches"
        )
    return sum(sizes)


def _told(
    outer: Reply[Acked],
    ids: tuple[tuple[int, str], ...],
    confirm: Callable[[], None],
    undo: Callable[[BaseException | None], None],
) -> Reply[Acked]:
    def done(acked: Acked | None, error: BaseException | None) -> None:
        if acked is not None:
            confirm()
            outer.set(attrs.evolve(acked, delayed=ids))
        else:
            undo(error)
            outer.fail(error or AssertionError("an append without an answer"))

    return Reply(done)


async def _split(services: Services, batch: PendingBatch) -> tuple[list[Wish], bytearray] | None:
    """On the event loop where that is quick, else in a thread."""
    now_ms = services.clock.wall_ms()
    if len(batch.view) <= DELAY_SPLIT_INLINE_BYTES_MAX:
        return split(batch.view, now_ms)
    done = trio.Event()
    results: list[object] = []

    def finished(result: object) -> None:
        results.append(result)
        done.set()

    services.disk.submit(lambda: split(batch.view, now_ms), finished)
    with trio.CancelScope(shield=True):  # the thread reads the request's buffer
        await done.wait()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]  # type: ignore[return-value]  # what split gives
