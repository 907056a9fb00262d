"""The controller's dealings with the metadata engine.

Not an actor: a task beside the controller, which it tells by messages how things stand. Always true: every write of a
controller holds only as long as nobody else has become one (`Check` of the controller epoch); whoever sees that
somebody has, or is not sure of its own session, stops at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import attrs
import structlog
import trio

from dduomq.actors.actor import Mailbox
from dduomq.actors.controller_messages import (
    AdmissionDone,
    BatchDone,
    ControllerTick,
    PartitionHeld,
    PartitionsHeld,
    PartitionsRead,
    ReignBegun,
    ReignEnded,
    TopicHeld,
    TopicsHeld,
    Wish,
    Written,
)
from dduomq.actors.following import FAILURES, Decoded, Pause, follow
from dduomq.actors.nursery import open_flat_nursery
from dduomq.actors.registration import Registration
from dduomq.cluster.image import (
    ADMITTED,
    CONTROLLER,
    CONTROLLER_EPOCH,
    PARTITIONS,
    TOPICS,
    decode_epochs,
    decode_partition,
    decode_topic,
    decode_value,
    encode_epochs,
    encode_partition,
    encode_value,
)
from dduomq.cluster.ports import (
    Changed,
    Check,
    Del,
    MetadataConflict,
    MetadataStore,
    Operation,
    Put,
    Resync,
    Session,
    Versioned,
)
from dduomq.limits import CONTROLLER_TICK_MS
from dduomq.ports import Clock, Rng


@attrs.frozen
class Reign:
    """`epoch` rises with each controller; `version` is that of its key."""

    epoch: int
    version: int
    session: Session

    @property
    def check(self) -> Check:
        return Check(CONTROLLER_EPOCH, self.version)


class Clerk:
    """`run` must run as long as the node does."""

    def __init__(
        self,
        store: MetadataStore,
        registration: Registration,
        mailbox: Mailbox,
        clock: Clock,
        rng: Rng,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._store = store
        self._registration = registration
        self._mailbox = mailbox
        self._clock = clock
        self._rng = rng
        self._log = log
        self._decoded = Decoded(decode_partition)
        self._reign: Reign | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def epoch(self) -> int:
        """The controller epoch if this node is the controller, else 0."""
        return 0 if self._reign is None else self._reign.epoch

    # --- becoming the controller --------------------------------------------------------------------

    async def run(self) -> None:
        """Try to become the controller; be it; try again."""
        pause = Pause(self._rng)
        while True:
            session = await self._registration.registered()
            try:
                reign = await self._campaign(session)
                if reign is None:
                    await self._until_vacant(session)
                else:
                    await self._be(reign)
                pause.worked()
            except FAILURES as error:
                self._log.debug("controller_not_elected", reason=error.message)
                await pause.failed()

    async def _campaign(self, session: Session) -> Reign | None:
        """None if another node is the controller. What is left of an earlier try of this node is cleared away."""
        held = await self._store.get(CONTROLLER)
        if held is not None:
            if decode_value(held.value) != self._registration.node_id:
                return None
            await self._store.txn([Check(CONTROLLER, held.version), Del(CONTROLLER)])
        last = await self._store.get(CONTROLLER_EPOCH)
        before, version = (0, 0) if last is None else (cast(int, decode_value(last.value)), last.version)
        won = await self._store.txn(
            [
                Check(CONTROLLER, 0),
                Check(CONTROLLER_EPOCH, version),
                Put(CONTROLLER, encode_value(self._registration.node_id), is_ephemeral=True),
                Put(CONTROLLER_EPOCH, encode_value(before + 1)),
            ]
        )
        return Reign(before + 1, won, session)

    async def _until_vacant(self, session: Session) -> None:
        """Return when no node is the controller, or this one has lost its session."""
        async with open_flat_nursery() as nursery:
            nursery.start_soon(_cancel_when_lost, session, nursery.cancel_scope)
            async with self._store.watch(CONTROLLER) as changes:
                async for change in changes:
                    if isinstance(change, Resync):
                        is_vacant = await self._store.get(CONTROLLER) is None
                    else:
                        is_vacant = change.key == CONTROLLER and change.value is None
                    if is_vacant:
                        break
            nursery.cancel_scope.cancel()

    async def _be(self, reign: Reign) -> None:
        """Be the controller, until deposed."""
        held = await self._store.get(ADMITTED)
        self._reign = reign
        self._log.info("controller_elected", epoch=reign.epoch)
        try:
            async with open_flat_nursery() as nursery:
                self._nursery = nursery
                admitted = {} if held is None else decode_epochs(held.value)
                around, timeout_ms = self._registration, round(reign.session.timeout_s * 1000)
                self._mailbox.post(
                    ReignBegun(
                        reign=reign.epoch, nodes=around.nodes, admitted=admitted,
                        own=(around.node_id, around.epoch), timeout_ms=timeout_ms,
                    )
                )  # fmt: skip
                nursery.start_soon(self._follow, TOPICS, self._topics, self._topic)
                nursery.start_soon(self._follow, PARTITIONS, self._partitions, self._partition)
                nursery.start_soon(self._follow, CONTROLLER, self._epochs, self._epoch)
                nursery.start_soon(self._tick, reign)
                await reign.session.wait_lost()
                nursery.cancel_scope.cancel()
        finally:
            self._reign = self._nursery = None
            self._mailbox.post(ReignEnded(reign=reign.epoch))
            self._log.info("controller_resigned", epoch=reign.epoch)

    def resign(self) -> None:
        """Stop being the controller; another node, or this one anew, becomes it."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _tick(self, reign: Reign) -> None:
        while True:
            self._mailbox.offer(ControllerTick(reign=reign.epoch, now_ms=int(self._clock.monotonic() * 1000)))
            await trio.sleep(CONTROLLER_TICK_MS / 1000)

    # --- what there is ------------------------------------------------------------------------------

    async def _follow(
        self, prefix: str, all_of: Callable[[Sequence[Versioned]], None], one: Callable[[Changed], None]
    ) -> None:
        await follow(self._store, prefix, all_of=all_of, one=one, rng=self._rng, log=self._log)

    def _topics(self, held: Sequence[Versioned]) -> None:
        topics = tuple((decode_topic(each.value), each.version) for each in held)
        self._mailbox.post(TopicsHeld(reign=self.epoch, topics=topics))

    def _topic(self, change: Changed) -> None:
        record = None if change.value is None else decode_topic(change.value)
        name = change.key.removeprefix(TOPICS)
        self._mailbox.post(TopicHeld(reign=self.epoch, name=name, record=record, version=change.version))

    def _partitions(self, held: Sequence[Versioned]) -> None:
        self._mailbox.post(PartitionsHeld(reign=self.epoch, records=self._all(held)))

    def _partition(self, change: Changed) -> None:
        if change.value is None:
            written = Written(change.key, None, change.version)
        else:
            written = self._written(Versioned(change.key, change.value, change.version))
        self._mailbox.post(PartitionHeld(reign=self.epoch, written=written))

    def _written(self, held: Versioned) -> Written:
        return Written(held.key, self._decoded.one(held), held.version)

    def _all(self, held: Sequence[Versioned]) -> tuple[Written, ...]:
        records = self._decoded.all(held)
        return tuple(Written(each.key, record, each.version) for each, record in zip(held, records, strict=True))

    def _epochs(self, held: Sequence[Versioned]) -> None:
        versions = {each.key: each.version for each in held}
        if self._reign is not None and versions.get(CONTROLLER_EPOCH) != self._reign.version:
            self.resign()

    def _epoch(self, change: Changed) -> None:
        reign = self._reign
        if reign is not None and (
            (change.key == CONTROLLER_EPOCH and change.version > reign.version)
            or (change.key == CONTROLLER and change.value is None and change.version > reign.version)
        ):
            self.resign()

    # --- what is to be done -------------------------------------------------------------------------

    def write(self, wishes: Sequence[Wish]) -> None:
        """One transaction; answered with `BatchDone`."""
        self._start(self._write, wishes)

    def read(self, epochs: Mapping[int, int]) -> None:
        """Read all partitions; answered with `PartitionsRead`."""
        self._start(self._read, epochs)

    def admit(self, admitted: Mapping[int, int]) -> None:
        """Write which registrations have been dealt with; answered with `AdmissionDone`."""
        self._start(self._admit, admitted)

    def _start(self, work: Callable[..., object], argument: object) -> None:
        """Nothing begins any more when the reign is ending: its nursery may be closed already."""
        if self._nursery is not None and not self._nursery.cancel_scope.cancel_called:
            self._nursery.start_soon(work, self._reign, argument)  # type: ignore[arg-type]  # they are coroutines

    async def _write(self, reign: Reign, wishes: Sequence[Wish]) -> None:
        if not self._is_sure(reign):
            return
        guards = dict.fromkeys(wish.topic for wish in wishes if wish.topic is not None)
        operations: list[Operation] = [reign.check, *(Check(TOPICS + name, version) for name, version in guards)]
        for wish in wishes:
            write = Del(wish.key) if wish.record is None else Put(wish.key, encode_partition(wish.record))
            operations += [Check(wish.key, wish.version), write]
        try:
            version = await self._store.txn(operations)
            outcomes = tuple(Written(wish.key, wish.record, version) for wish in wishes)
        except MetadataConflict:
            outcomes = await self._read_again(reign, wishes)
        except FAILURES as error:
            self._log.debug("controller_write_failed", reason=error.message)
            await Pause(self._rng).failed()
            outcomes = await self._read_again(reign, wishes)
        self._mailbox.post(BatchDone(reign=reign.epoch, outcomes=outcomes))

    async def _read_again(self, reign: Reign, wishes: Sequence[Wish]) -> tuple[Written, ...]:
        """What holds now, after somebody else was quicker, or nobody knows. Resigns if there is another controller."""
        pause = Pause(self._rng)
        while True:
            try:
                epoch = await self._store.get(CONTROLLER_EPOCH)
                if epoch is None or epoch.version != reign.version:
                    self.resign()
                held = [(wish.key, await self._store.get(wish.key)) for wish in wishes]
                return tuple(Written(key, None, 0) if each is None else self._written(each) for key, each in held)
            except FAILURES:
                await pause.failed()

    async def _read(self, reign: Reign, epochs: Mapping[int, int]) -> None:
        pause = Pause(self._rng)
        while True:
            try:
                held = await self._store.scan(PARTITIONS)
            except FAILURES:
                await pause.failed()
            else:
                self._mailbox.post(PartitionsRead(reign=reign.epoch, epochs=epochs, records=self._all(held)))
                return

    async def _admit(self, reign: Reign, admitted: Mapping[int, int]) -> None:
        pause = Pause(self._rng)
        while self._is_sure(reign):
            try:
                await self._store.txn([reign.check, Put(ADMITTED, encode_epochs(admitted))])
                self._mailbox.post(AdmissionDone(reign=reign.epoch, admitted=admitted))
                return
            except MetadataConflict:
                await self._read_again(reign, ())
            except FAILURES as error:
                self._log.debug("controller_write_failed", reason=error.message)
            await pause.failed()

    def _is_sure(self, reign: Reign) -> bool:
        """Whether this node's session is valid by its own clock; else it resigns."""
        if not reign.session.is_valid:
            self.resign()
        return reign.session.is_valid


async def _cancel_when_lost(session: Session, scope: trio.CancelScope) -> None:
    await session.wait_lost()
    scope.cancel()
