"""The metadata store of a cluster that keeps its own: a `MetadataStore` over the members of the quorum.

Always true: `get` and `scan` see whatever was committed when they were called, on any node; a transaction is sent to
the leader, wherever it is asked for, under a number of this node's, so that it may be sent again until there is an
answer and is carried out once; `MetadataUnavailable` means that it was not carried out and never will be, unless it
says `MetadataUnknown`; nothing waits longer than `QUORUM_TIMEOUT_MS`.

How it is put together: make the store; start `store.actor` behind `store.mailbox`; `await store.open()`; fill the
node's handlers by `serve`; start the links; start `store.run` as a task; let other nodes in by the listener, as the
cluster forms only then; `await store.formed()`.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any, Protocol

import attrs
import trio

from dduomq.actors.actor import Mailbox, ask
from dduomq.actors.formation import Formation
from dduomq.actors.nursery import open_flat_nursery
from dduomq.actors.quorum import QuorumActor, QuorumWorld
from dduomq.actors.quorum_messages import (
    OFFLINE,
    RUNNING,
    WAITING,
    AskChange,
    AskRead,
    BeatCame,
    HandOver,
    Propose,
    QuorumTick,
    Stepped,
)
from dduomq.actors.quorum_wire import RaftInbox
from dduomq.cluster import commands
from dduomq.cluster.commands import (
    BeginSession,
    ClientReplaced,
    Command,
    EndSession,
    NewClient,
    Origin,
    Outcome,
    Transact,
)
from dduomq.cluster.ports import (
    Changed,
    MetadataUnavailable,
    MetadataUnknown,
    Operation,
    PeerNotReached,
    Resync,
    Session,
    Versioned,
)
from dduomq.cluster.raft_ready import LEADER
from dduomq.cluster.raft_refusals import ChangeUnderWay, NoQuorumLeader, ProposalTooLarge
from dduomq.errors import DduomqError, StorageError, UsageError, from_code
from dduomq.limits import (
    QUORUM_ATTEMPT_MS,
    QUORUM_COMMANDS_MAX,
    QUORUM_PAUSE_MS,
    QUORUM_TICK_MS,
    QUORUM_TIMEOUT_MS,
)
from dduomq.ports import Buffer
from dduomq.stores.quorum_session import QuorumSession
from dduomq.stores.watchers import Watchers
from dduomq.wire import peer_metadata as wire
from dduomq.wire.peer_hello import PeerHello
from dduomq.wire.raft_messages import Peer, RaftMessage

Answer = tuple[object, Sequence[Buffer]]


class Handlers(Protocol):
    """Where requests of other nodes are handed out; see `dduomq.listeners.peer.PeerHandlers`."""

    def on_request(self, kind: type, handler: Any) -> None: ...

    def on_message(self, kind: type, handler: Any) -> None: ...


@attrs.frozen
class QuorumStatus:
    """How things stand, as far as this node knows. `leader` is None while there is none."""

    node_id: int
    cluster_id: str
    lifecycle: str
    reason: str
    role: str
    term: int
    leader: int | None
    voters: tuple[Peer, ...]
    learners: tuple[Peer, ...]
    applied: int
    revision: int


class QuorumStore:
    """See the file's head."""

    def __init__(self, world: QuorumWorld, *, session_timeout_ms: int) -> None:
        self.mailbox = Mailbox("quorum")
        self._world = world
        self._view = world.view
        self._links = world.links
        self._rng = world.rng
        self._session_timeout_ms = session_timeout_ms
        self._watchers = Watchers()
        self._view.listen(self._applied)
        self._inbox = RaftInbox(lambda: world.book.cluster_id, self._step)
        self._numbers = count(1)
        self._outstanding: dict[int, None] = {}  # numbers whose outcome somebody waits for, in order
        self._slots = trio.Semaphore(QUORUM_COMMANDS_MAX)
        self._client = 0
        self._client_lock = trio.Lock()
        self._session = 0
        self._has_session = False

    # --- life ---------------------------------------------------------------------------------------

    def actor(self, mailbox: Mailbox) -> QuorumActor:
        """For the supervisor."""
        return QuorumActor(mailbox, self._world)

    async def open(self) -> None:
        """Wait until the log was read. Raises `CorruptMessage` and others with what to do."""
        await self._view.opened.wait()
        if self._view.error is not None:
            raise self._view.error

    async def run(self) -> None:
        """A task: the clock of the quorum, and the way into a cluster.

        Raises `StorageError` when this member can't go on: a node that learns nothing any more, and still tells the
        others that it is alive, would keep what it leads, and the office of the controller, for ever.
        """
        async with open_flat_nursery() as nursery:
            formation = Formation(self.mailbox, self._view, self._links, self._world.book, self._world.log)
            nursery.start_soon(formation.run)
            while True:
                await trio.sleep(QUORUM_TICK_MS / 1000)
                self.mailbox.offer(QuorumTick())
                if self._view.lifecycle == OFFLINE:
                    raise StorageError(f"the metadata can't be written: {self._view.reason}")

    async def formed(self) -> None:
        """Wait until this node has a cluster, and has heard from its leader, or is it.

        Raises `QuorumOffline` if its disk fails before that.
        """
        while self._view.lifecycle != RUNNING or self._view.standing.leader is None or not self._view.applied:
            if self._view.lifecycle == OFFLINE:
                raise self._view.refusal()
            await self._view.changed()

    async def hand_over(self) -> None:
        """This node is about to stop: if it leads the quorum, another voter does from now on, where there is one.

        Never raises; without it the others would find out by an election time-out.
        """
        try:
            if not await ask(self.mailbox, lambda reply: HandOver(reply=reply)):
                return
        except DduomqError:
            return  # it takes no part, or hands over already
        with trio.move_on_after(QUORUM_ATTEMPT_MS / 1000):
            while self.is_leader or self._view.standing.leader is None:
                await self._view.changed()

    def met(self, hello: PeerHello) -> None:
        """Another node has come in, and has said where it can be dialled."""
        self._links.learn(hello.node_id, hello.host, hello.port)

    def status(self) -> QuorumStatus:
        view = self._view
        standing, configuration = view.standing, view.configuration
        return QuorumStatus(
            self._links.own, self._world.book.cluster_id, view.lifecycle, view.reason, standing.role, standing.term,
            None if standing.leader is None else standing.leader.node, configuration.voters, configuration.learners,
            view.applied, view.state.metadata.revision,
        )  # fmt: skip

    @property
    def is_leader(self) -> bool:
        """Whether this node believes to lead the quorum."""
        return self._view.standing.role == LEADER

    # --- reading ------------------------------------------------------------------------------------

    async def get(self, key: str) -> Versioned | None:
        await self._catch_up()
        return self._view.state.metadata.get(key)

    async def scan(self, prefix: str) -> list[Versioned]:
        await self._catch_up()
        return self._view.state.metadata.scan(prefix)

    async def _catch_up(self) -> None:
        """Wait until this node's state is as new as this call. Raises `MetadataUnavailable`."""
        ticks = QUORUM_TIMEOUT_MS // QUORUM_TICK_MS
        await ask(self.mailbox, lambda reply: AskRead(ticks=ticks, reply=reply))

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[Changed | Resync]]:
        """What this node has applied: it may be a little behind the others, and then catches up."""
        return self._watchers.watch(prefix)

    def _applied(self, changes: Sequence[Changed] | None) -> None:
        if changes is None:
            self._watchers.resync()
        else:
            self._watchers.tell(changes)

    # --- writing ------------------------------------------------------------------------------------

    async def txn(self, operations: Sequence[Operation]) -> int:
        """See `MetadataStore.txn`."""
        outcome = await self._execute(lambda origin: Transact(origin, self._session, tuple(operations)))
        return _value(outcome)

    async def _execute(self, build: Callable[[Origin], Command]) -> Outcome:
        """Get a command into the log, once. Raises `MetadataUnavailable`, `MetadataUnknown`."""
        deadline = trio.current_time() + QUORUM_TIMEOUT_MS / 1000
        async with self._slots:
            while True:
                client = await self._own_client(deadline)
                number = next(self._numbers)
                self._outstanding[number] = None
                try:
                    origin = Origin(client, number, next(iter(self._outstanding)))
                    outcome, is_unknown = await self._commit(commands.encode(build(origin)), deadline)
                finally:
                    del self._outstanding[number]
                if outcome.code != ClientReplaced.code:
                    return outcome
                if self._client == client:
                    self._client = 0
                if is_unknown or trio.current_time() >= deadline:
                    raise MetadataUnknown(outcome.message) if is_unknown else ClientReplaced(outcome.message)

    async def _own_client(self, deadline: float) -> int:
        async with self._client_lock:
            if not self._client:
                outcome, _ = await self._commit(commands.encode(NewClient(self._links.own)), deadline)
                self._client = _value(outcome)
            return self._client

    async def _commit(self, data: bytes, deadline: float) -> tuple[Outcome, bool]:
        """What it came to, and whether an attempt before may have been carried out as well: it is sent again until
        there is an answer, or until the deadline.
        """
        is_unknown = False
        while True:
            try:
                return await self._attempt(data, deadline), is_unknown
            except ProposalTooLarge:
                raise
            except (MetadataUnavailable, PeerNotReached) as error:
                reason = error.message
                if self._view.lifecycle in {WAITING, OFFLINE}:
                    deadline = 0.0
            except DduomqError as error:
                reason, is_unknown = error.message, True
            if trio.current_time() >= deadline:
                raise MetadataUnknown(reason) if is_unknown else MetadataUnavailable(reason)
            await trio.sleep(self._rng.uniform(0.5, 1.5) * QUORUM_PAUSE_MS / 1000)

    async def _attempt(self, data: bytes, deadline: float) -> Outcome:
        leader = self._leader()
        timeout_s = max(min(deadline - trio.current_time(), QUORUM_ATTEMPT_MS / 1000), 0.001)
        if leader == self._links.own:
            with trio.move_on_after(timeout_s):
                return await ask(self.mailbox, lambda reply: Propose(data=data, size_bytes=len(data), reply=reply))
            raise MetadataUnknown("the metadata's leader is this node, and it has no majority behind it just now")
        done, _ = await self._links.link(leader).request(wire.Command(), [data], timeout_s=timeout_s)
        return Outcome(done.code, done.value, done.message)

    def _leader(self) -> int:
        """Raises `MetadataUnavailable`."""
        if self._view.lifecycle != RUNNING:
            raise self._view.refusal()
        leader = self._view.standing.leader
        if leader is None:
            raise NoQuorumLeader("the metadata's quorum has no leader: does a majority of its voters run?")
        return leader.node

    # --- members ------------------------------------------------------------------------------------

    async def remove_member(self, node_id: int) -> None:
        """The node takes no part in the quorum any more; started with an empty directory it may join again.

        Raises `InvalidChange`, `ChangeUnderWay` if it goes on for too long, and what `txn` raises.
        """
        await self._change(wire.ChangeMember("remove", node_id))

    async def promote_member(self, node_id: int) -> None:
        """A learner gets a vote. Raises `LearnerBehind` too."""
        await self._change(wire.ChangeMember("promote", node_id))

    async def _change(self, change: wire.ChangeMember) -> int:
        deadline = trio.current_time() + QUORUM_TIMEOUT_MS / 1000
        while True:
            try:
                leader = self._leader()
                if leader == self._links.own:
                    return await self._change_here(change)
                done, _ = await self._links.link(leader).request(change, timeout_s=QUORUM_TIMEOUT_MS / 1000)
                found: int = done.index
                return found
            except (MetadataUnavailable, ChangeUnderWay, PeerNotReached):
                if trio.current_time() >= deadline or self._view.lifecycle != RUNNING:
                    raise
            await trio.sleep(QUORUM_PAUSE_MS / 1000)

    async def _change_here(self, change: wire.ChangeMember) -> int:
        self._links.learn(change.node, change.host, change.port)
        with trio.move_on_after(QUORUM_TIMEOUT_MS / 1000):
            return await ask(
                self.mailbox,
                lambda reply: AskChange(kind=change.kind, node=change.node, directory=change.directory, reply=reply),
            )
        raise MetadataUnknown("the change of members is not committed: does a majority of the voters run?")

    # --- the session --------------------------------------------------------------------------------

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """See `MetadataStore.session`."""
        if self._has_session:
            raise UsageError("this node has a session already")
        self._has_session = True
        try:
            async with self._begun() as session:
                yield session
        finally:
            self._has_session = False

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[QuorumSession]:
        asked_at, own, timeout_ms = trio.current_time(), self._links.own, self._session_timeout_ms
        begun = await self._execute(lambda origin: BeginSession(origin, own, timeout_ms))
        session = QuorumSession(_value(begun), timeout_ms, asked_at, self.mailbox, self._view, self._links)
        self._session = session.session
        try:
            async with open_flat_nursery() as nursery:
                nursery.start_soon(session.watch)
                nursery.start_soon(session.beat)
                try:
                    yield session
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            self._session = 0
            if not session.is_over:
                session.close()
                with trio.move_on_after(timeout_ms / 1000, shield=True):
                    await self._end(session.session)

    async def _end(self, session: int) -> None:
        try:
            await self._execute(lambda origin: EndSession(origin, session))
        except DduomqError as error:  # it expires by itself
            self._world.log.info("session_not_ended", reason=error.message)

    # --- what other nodes ask -----------------------------------------------------------------------

    def serve(self, handlers: Handlers) -> None:
        """Answer the other nodes."""
        handlers.on_message(wire.RaftMessages, lambda context, body, raw: self._inbox.take(context.node_id, body, raw))
        handlers.on_request(wire.Command, self._on_command)
        handlers.on_request(wire.Beat, self._on_beat)
        handlers.on_request(wire.ChangeMember, self._on_change)
        handlers.on_request(wire.Join, self._on_join)

    def _step(self, messages: tuple[RaftMessage, ...]) -> None:
        self.mailbox.offer(Stepped(messages=messages))

    async def _on_command(self, _context: object, _body: wire.Command, payload: memoryview) -> Answer:
        data = bytes(payload)
        outcome: Outcome = await ask(self.mailbox, lambda reply: Propose(data=data, size_bytes=len(data), reply=reply))
        return wire.CommandDone(outcome.code, outcome.value, outcome.message), ()

    async def _on_beat(self, _context: object, body: wire.Beat, _payload: memoryview) -> Answer:
        return await ask(self.mailbox, lambda reply: BeatCame(session=body.session, reply=reply)), ()

    async def _on_change(self, _context: object, body: wire.ChangeMember, _payload: memoryview) -> Answer:
        return wire.MemberChanged(await self._change_here(body)), ()

    async def _on_join(self, context: Any, body: wire.Join, _payload: memoryview) -> Answer:
        change = wire.ChangeMember("add", context.node_id, context.directory_id, body.host, body.port)
        return wire.MemberChanged(await self._change(change)), ()


def _value(outcome: Outcome) -> int:
    """Raises the error that it is."""
    if outcome.code:
        raise from_code(outcome.code, outcome.message)
    return outcome.value
