"""The native protocol's requests about records that a group sets aside, carried out."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dduomq.actors.actor import Reply, ask
from dduomq.actors.coordinator_messages import BeenSetAside, SetAside, ToBeAside
from dduomq.actors.partition_messages import Describe, PartitionState
from dduomq.errors import (
    DduomqError,
    DeadLettersNotFound,
    InvalidDelay,
    InvalidRequest,
    LeaderNotAvailable,
    OffsetOutOfRange,
)
from dduomq.groups.aside import NOWHERE, ORIGIN
from dduomq.ids import DEAD, DELAYED_GROUP, RETRY
from dduomq.limits import ASIDE_OFFSETS_MAX, ASIDE_TEXT_CHARACTERS_MAX, DELAY_MS_MAX
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.services import Services
from dduomq.wire import native_letters as wire


async def _set_aside(services: Services, context: Context, body: wire.SetAside) -> wire.SetAsideAnswer:
    """Each part with its own error; those without one are stored together."""
    services.gate.admit(context, Operation.READ, f"group:{body.group}")
    if not body.member_id or not 0 < len(body.parts) <= ASIDE_OFFSETS_MAX:
        raise InvalidRequest(f"a member sets 1 to {ASIDE_OFFSETS_MAX} records aside at once")
    results: list[DduomqError | int] = []
    parts: list[ToBeAside] = []
    for part in body.parts:
        try:
            parts.append(await _checked(services, context, part))
        except DduomqError as error:
            results.append(error)
        else:
            results.append(len(parts) - 1)
    mailbox = await services.groups.coordinator(body.group)

    def make(reply: Reply[BeenSetAside]) -> SetAside:
        return SetAside(
            group=body.group, member_id=body.member_id, generation=body.member_epoch, parts=tuple(parts), reply=reply
        )

    refused = (await ask(mailbox, make)).refused
    errors = [result if isinstance(result, DduomqError) else refused.get(result) for result in results]
    return wire.SetAsideAnswer(
        tuple(wire.AsideResult(error.code, error.message) if error else wire.AsideResult(0, None) for error in errors)
    )


async def _checked(services: Services, context: Context, part: wire.AsidePart) -> ToBeAside:
    services.gate.admit(context, Operation.READ, part.topic)
    if not 0 <= part.delay_ms <= DELAY_MS_MAX:
        raise InvalidDelay(f"a record can't come again in {part.delay_ms} ms; 0 to {DELAY_MS_MAX} are possible")
    await _check_there(services, part.topic, part.partition, (part.offset,))
    services.routes.check_id(part.topic, part.topic_id)
    return ToBeAside(
        (services.admin.route(part.topic).record.topic_id, part.partition), (part.offset,),
        DEAD if part.is_dead else RETRY, services.clock.wall_ms() + part.delay_ms,
        part.error[:ASIDE_TEXT_CHARACTERS_MAX], part.reason[:ASIDE_TEXT_CHARACTERS_MAX], part.is_foreign,
    )  # fmt: skip


async def _check_there(services: Services, topic: str, partition: int, offsets: tuple[int, ...]) -> None:
    """Raises `OffsetOutOfRange` for what can't be read there."""
    mailbox = services.routes.anywhere(topic, partition)
    state: PartitionState = await ask(mailbox, lambda reply: Describe(reply=reply))
    if state.log is None:
        raise LeaderNotAvailable(f"{topic}-{partition} is {state.reason or state.state}")
    start, end = state.log.log_start_offset, state.log.high_watermark
    for offset in offsets:
        if not start <= offset < end:
            raise OffsetOutOfRange(f"{topic}-{partition} has no record at offset {offset}: it has {start} to {end}")


async def _move_letters(services: Services, context: Context, body: wire.MoveLetters) -> wire.LettersMoved:
    services.gate.admit(context, Operation.ALTER, f"group:{body.group}")
    route = services.topics.find(DEAD, body.group)
    if route is None:
        raise DeadLettersNotFound(f"group {body.group!r} has no dead letters")
    if body.to not in {RETRY, ORIGIN, NOWHERE}:
        raise InvalidRequest(f"dead letters go to {RETRY!r}, to {ORIGIN!r} or nowhere (''), not to {body.to!r}")
    if body.group == DELAYED_GROUP and body.to == RETRY:
        raise InvalidRequest("these were for a topic, not for a group: send them to where they came from ('origin')")
    if not 0 < len(body.offsets) <= ASIDE_OFFSETS_MAX:
        raise InvalidRequest(f"1 to {ASIDE_OFFSETS_MAX} dead letters are moved at once, not {len(body.offsets)}")
    await _check_there(services, route.record.name, body.partition, body.offsets)
    part = ToBeAside((route.record.topic_id, body.partition), body.offsets, body.to, services.clock.wall_ms())
    mailbox = await services.groups.coordinator(body.group)

    def make(reply: Reply[BeenSetAside]) -> SetAside:
        return SetAside(group=body.group, member_id="", generation=-1, parts=(part,), reply=reply)

    moved = await ask(mailbox, make)
    for error in moved.refused.values():
        raise error
    return wire.LettersMoved(moved.counts[0])


async def _list(services: Services, context: Context, _body: wire.ListLetters) -> wire.LettersListed:
    found = []
    for name, route in sorted(services.routes.table.items()):
        if route.record.kind != DEAD:
            continue
        try:
            services.gate.admit(context, Operation.DESCRIBE, name)
        except DduomqError:
            continue
        found.append(wire.LettersTopic(route.record.group, name, len(route.partitions)))
    return wire.LettersListed(tuple(found))


HANDLERS: Mapping[type, Callable[[Services, Context, Any], Awaitable[object]]] = {
    wire.SetAside: _set_aside,
    wire.MoveLetters: _move_letters,
    wire.ListLetters: _list,
}
