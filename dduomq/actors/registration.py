"""This node in the cluster, and the others: who is alive, and since when.

Not an actor: two tasks keep a session with the metadata engine, and a frozen picture of all nodes. Always true: while
`session` is valid, the node's record is in the metadata under the epoch `epoch`; each registration has a new one. A
node that has lost its session goes on with what it does, and registers anew. Whenever nodes come or go, each says
whom it sees: a session outlasts its node, so that alone tells who has lived until then.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress

import attrs
import structlog
import trio

from dduomq.actors.following import FAILURES, Decoded, Following, Pause
from dduomq.actors.nursery import open_flat_nursery
from dduomq.cluster.image import (
    ADMITTED,
    DRAINING,
    NODES,
    PARTITIONS,
    SEEN,
    NodeRecord,
    SeenRecord,
    decode_epochs,
    decode_node,
    decode_partition,
    decode_seen,
    encode_node,
    encode_seen,
    encode_value,
)
from dduomq.cluster.ports import Check, Del, MetadataConflict, MetadataStore, Put, Session
from dduomq.errors import ConfigError
from dduomq.limits import LEAVE_POLL_MS, SESSION_LOOK_MS, SESSIONS_OUTLAST
from dduomq.ports import Clock, Rng

STOP = ".stop"


class NodeIdTaken(ConfigError):
    """Another node of the cluster has this number."""

    code = 1175


@attrs.frozen
class Nodes:
    """All nodes that are registered. Never changed, only replaced.

    `epochs`: of their registrations. `admitted`: the epochs that the controller has dealt with; only a node whose epoch
    is there is counted as alive by it. `draining`: who is to lead nothing, alive or not. `seen`: what each
    node has said of all of them.
    """

    records: Mapping[int, NodeRecord] = attrs.field(factory=dict)
    epochs: Mapping[int, int] = attrs.field(factory=dict)
    admitted: Mapping[int, int] = attrs.field(factory=dict)
    draining: frozenset[int] = frozenset()
    seen: Mapping[int, SeenRecord] = attrs.field(factory=dict)

    def epoch(self, node_id: int) -> int:
        """0 of a node that is not registered."""
        return self.epochs.get(node_id, 0)

    def is_admitted(self, node_id: int) -> bool:
        """Whether the controller counts it as alive."""
        return node_id in self.epochs and self.admitted.get(node_id) == self.epochs[node_id]


class Registration:
    """`run` must run as long as the node does. `record` is what the node says of itself."""

    def __init__(
        self,
        store: MetadataStore,
        record: NodeRecord,
        *,
        clock: Clock,
        rng: Rng,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.node_id = record.node_id
        self.nodes = Nodes()
        self.session: Session | None = None
        self.epoch = 0
        self._store = store
        self.record = record
        self._clock = clock
        self._rng = rng
        self._log = log
        self._taken_since: float | None = None
        self._listeners: list[Callable[[Nodes], None]] = []
        self._changed = trio.Event()
        self._followings = [Following(prefix, self._look) for prefix in (NODES, ADMITTED, DRAINING, SEEN)]
        self._records, self._seen = Decoded(decode_node), Decoded(decode_seen)

    @property
    def is_registered(self) -> bool:
        """Whether this node has a session that is surely valid."""
        return self.session is not None and self.session.is_valid

    @property
    def is_admitted(self) -> bool:
        """Whether the controller has dealt with this very registration: what this node leads, it may lead."""
        return self.epoch != 0 and self.nodes.admitted.get(self.node_id) == self.epoch

    def on_change(self, listener: Callable[[Nodes], None]) -> None:
        """Call `listener` with every new picture, and with the one of now."""
        self._listeners.append(listener)
        listener(self.nodes)

    async def registered(self) -> Session:
        """Wait until this node has a valid session: a new one, or the one it has, if that comes to count again."""
        while True:
            changed = self._changed
            if self.session is not None and self.session.is_valid:
                return self.session
            with trio.move_on_after(SESSION_LOOK_MS / 1000):  # nobody tells when a session counts again
                await changed.wait()

    async def admitted(self) -> None:
        """Wait until the controller has dealt with the registration of now."""
        while not self.is_admitted:
            await self._changed.wait()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started when the node is registered for the first time. Raises `NodeIdTaken`."""
        async with open_flat_nursery() as nursery:
            for following in self._followings:
                nursery.start_soon(following.run, self._store, self._rng, self._log)
            nursery.start_soon(self._keep)
            await self.registered()
            task_status.started()

    async def leave(self, timeout_s: float) -> bool:
        """Say that this node is about to stop, and wait until others lead what it leads; whether they do."""
        with trio.move_on_after(timeout_s):
            try:
                key = f"{DRAINING}{self.node_id}{STOP}"
                await self._store.txn([Put(key, encode_value(self.node_id), is_ephemeral=True)])
                await self._until_led_elsewhere()
                return True
            except FAILURES as error:
                self._log.warning("leaders_not_handed_over", reason=error.message)
        return False

    async def _until_led_elsewhere(self) -> None:
        """Return when this node leads no partition that another node could."""
        while True:
            records = [decode_partition(held.value) for held in await self._store.scan(PARTITIONS)]
            others = {node for node in self.nodes.records if node != self.node_id and node not in self.nodes.draining}
            if not any(record.leader == self.node_id and others & set(record.isr) for record in records):
                return
            await trio.sleep(LEAVE_POLL_MS / 1000)

    # --- being there --------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Register, and again whenever the registration is lost."""
        pause = Pause(self._rng)
        while True:
            try:
                async with self._store.session() as session:
                    epoch = await self._register(session)
                    if epoch:
                        pause.worked()
                        await self._stay(session, epoch)
            except FAILURES as error:
                self._log.warning("node_not_registered", reason=error.message)
            self._set(None, 0)
            await pause.failed()

    async def _register(self, session: Session) -> int:
        """Write the record; its version, or 0 while another node has the number. Raises `NodeIdTaken`."""
        key = self.record.key
        held = await self._store.get(key)
        if held is not None:
            other = decode_node(held.value)
            if other.directory_id != self.record.directory_id:
                self._wait_for_number(other, session)
                return 0
            await self._store.txn([Check(key, held.version), Del(key)])
        self._taken_since = None
        return await self._store.txn([Check(key, 0), Put(key, encode_node(self.record), is_ephemeral=True)])

    def _wait_for_number(self, other: NodeRecord, session: Session) -> None:
        """A node that has died keeps its number for a while; one that goes on having it lives."""
        now = self._clock.monotonic()
        self._taken_since = now if self._taken_since is None else self._taken_since
        if now - self._taken_since > SESSIONS_OUTLAST * session.timeout_s:
            where = "".join(f" at {address.host}:{address.port}" for address in other.addresses[:1])
            raise NodeIdTaken(
                f"another node of this cluster is number {self.node_id} already{where}: "
                "give this one a number of its own with --id"
            )

    async def _stay(self, session: Session, epoch: int) -> None:
        """Return when the session is over, or the record is not this registration's any more."""
        self._set(session, epoch)
        self._log.info("node_registered", node=self.node_id, epoch=epoch)
        async with open_flat_nursery() as nursery:
            nursery.start_soon(self._until_replaced, epoch, nursery.cancel_scope)
            nursery.start_soon(self._say_who_is_seen, epoch, round(session.timeout_s * 1000))
            await session.wait_lost()
            nursery.cancel_scope.cancel()
        self._log.warning("node_registration_lost", node=self.node_id, epoch=epoch)

    async def _until_replaced(self, epoch: int, scope: trio.CancelScope) -> None:
        while True:
            changed = self._changed
            if self.nodes.epoch(self.node_id) != epoch:
                with suppress(*FAILURES):
                    held = await self._store.get(self.record.key)
                    if held is None or held.version != epoch:
                        scope.cancel()
            await changed.wait()

    async def _say_who_is_seen(self, epoch: int, timeout_ms: int) -> None:
        """Whenever nodes have come or gone: the controller waits for it, so a failure does not make this one slow."""
        told: Mapping[int, int] = {}
        replaced = Pause(self._rng)
        while True:
            changed, seen = self._changed, self.nodes.epochs
            if seen == told:
                await changed.wait()
                continue
            said = encode_seen(SeenRecord(seen, timeout_ms))
            try:
                await self._store.txn(
                    [Check(self.record.key, epoch), Put(f"{SEEN}{self.node_id}", said, is_ephemeral=True)]
                )
                told = seen
                replaced.worked()
            except MetadataConflict:  # the registration is not this one any more: that is found out elsewhere
                await replaced.failed()
            except FAILURES:
                await Pause(self._rng).failed()

    def _set(self, session: Session | None, epoch: int) -> None:
        self.session, self.epoch = session, epoch
        self._wake()

    # --- the others ---------------------------------------------------------------------------------

    def _look(self) -> None:
        nodes, admitted, draining, seen = (following.held for following in self._followings)
        drained = frozenset(int(held.key.removeprefix(DRAINING).removesuffix(STOP)) for held in draining)
        records = {}
        for record in self._records.all(nodes):
            records[record.node_id] = attrs.evolve(record, is_draining=record.node_id in drained)
        self.nodes = Nodes(
            dict(sorted(records.items())),
            {int(held.key.removeprefix(NODES)): held.version for held in nodes},
            decode_epochs(admitted[0].value) if admitted else {},
            drained,
            {int(held.key.removeprefix(SEEN)): said for held, said in zip(seen, self._seen.all(seen), strict=True)},
        )
        for listener in self._listeners:
            listener(self.nodes)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
