"""A member of the metadata's quorum: the machine of `cluster/raft.py`, with a disk, links and a clock.

| message | from | answer | may wait on | effect |
|---|---|---|---|---|
| Opened | disk | – | nothing | the member begins, or waits for its cluster |
| Saved | disk | – | nothing | what was kept is said, applied and answered |
| Encoded | disk | – | nothing | a snapshot is kept as soon as the log is free |
| Begin | formation | – | nothing | the cluster is founded, or joined |
| QuorumTick | clock | – | nothing | elections, heartbeats, sessions that expire |
| Stepped | links | – | nothing | the machine takes the messages |
| Propose | store | Outcome | nothing | a command goes into the log |
| AskRead | store | None | nothing | the quorum is asked how far this node must be |
| BeatCame | store | BeatAnswer | nothing | the session was heard |
| AskChange | store | the index | nothing | a member is added, promoted or removed |
| HandOver | store | whether there is another | nothing | a leader has another voter lead |

Always true: what must be synced is synced by a disk job before anything of it is said, one job at a time; meanwhile
ticks and messages go on. All that waits is handled before the machine is asked once what is to be done: that is one
sync for many commands. After a failed write this member is offline until the node is started again: nobody knows what
is on the disk. Every question is answered: by the time it allows itself, with a refusal, or when the actor ends.

A tick is 50 ms, heartbeats go out every second one, and an election begins after 8 to 16 without one: 400 to 800 ms.
A leader says nothing while it syncs, so 400 ms must be well above what a sync takes; it is ten times a slow one of
40 ms. Less would find a dead leader sooner and depose live ones on slow disks; more would let ephemeral keys outlive
their node by more than half a second beyond the default time-out of a session.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import attrs
import structlog

from dduomq.actors.actor import Actor, Mailbox, Message, Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.link import Links
from dduomq.actors.quorum_disk import begin_member, mark_member, open_member
from dduomq.actors.quorum_messages import (
    OFFLINE,
    OPENING,
    RUNNING,
    WAITING,
    AskChange,
    AskRead,
    BeatCame,
    Begin,
    Encoded,
    HandOver,
    Opened,
    OpenedMember,
    Propose,
    QuorumTick,
    QuorumView,
    Saved,
    Stepped,
)
from dduomq.actors.quorum_reads import QuorumReads
from dduomq.actors.quorum_wire import send_all
from dduomq.cluster import commands
from dduomq.cluster.commands import ExpireSession
from dduomq.cluster.handshake import PeerBook
from dduomq.cluster.ports import MetadataUnavailable, MetadataUnknown
from dduomq.cluster.quorum_state import QuorumState, encode_frozen
from dduomq.cluster.raft import Raft
from dduomq.cluster.raft_conf import AddLearner, Change, Promote, Remove
from dduomq.cluster.raft_ready import HardState, Ready, Settings, Stored
from dduomq.cluster.raft_refusals import InvalidChange
from dduomq.cluster.sessions import SessionClock
from dduomq.cluster.wal import Wal
from dduomq.errors import DduomqError, StorageError
from dduomq.limits import (
    QUORUM_ELECTION_TICKS,
    QUORUM_HEARTBEAT_TICKS,
    QUORUM_SNAPSHOT_BYTES,
    QUORUM_SNAPSHOT_ENTRIES,
    QUORUM_TICK_MS,
    RAFT_SNAPSHOT_BYTES_MAX,
)
from dduomq.log.files import Files
from dduomq.ports import Rng
from dduomq.wire.peer_metadata import BeatAnswer
from dduomq.wire.raft_messages import LogEntry, Peer, Snapshot

BEAT_TICKS = 6  # a leader that is not sure by then answers without
PROMOTE_TICKS = 20
READIES_MAX = 64  # at once; the rest waits for the next message, a tick at the latest


@attrs.frozen
class QuorumWorld:
    """What the member needs. `directory` is DATA/quorum."""

    files: Files
    directory: str
    disk: Mailbox
    rng: Rng
    book: PeerBook
    links: Links
    view: QuorumView
    log: structlog.stdlib.BoundLogger


class QuorumActor(Actor):
    """See the file's head."""

    __slots__ = (
        "_bytes", "_client", "_clock", "_frozen_at", "_is_saving", "_member", "_raft", "_reads", "_ready", "_snapshot",
        "_unreached",
        "_view", "_waiting", "_wal", "_world",
    )  # fmt: skip
    HANDLERS: ClassVar[Mapping[type[Message], str]] = {
        Opened: "_on_opened",
        Saved: "_on_saved",
        Encoded: "_on_encoded",
        Begin: "_on_begin",
        QuorumTick: "_on_tick",
        Stepped: "_on_stepped",
        Propose: "_on_propose",
        AskRead: "_on_read",
        BeatCame: "_on_beat",
        AskChange: "_on_change",
        HandOver: "_on_hand_over",
    }

    def __init__(self, mailbox: Mailbox, world: QuorumWorld) -> None:
        super().__init__(mailbox)
        self._world = world
        self._view = world.view
        self._client = DiskClient(world.disk)
        self._clock = SessionClock(QUORUM_TICK_MS, QUORUM_ELECTION_TICKS)
        self._raft: Raft | None = None
        self._wal: Wal | None = None
        self._member: OpenedMember | None = None
        self._ready: Ready | None = None
        self._is_saving = False
        self._waiting: dict[int, tuple[int, Reply[Any]]] = {}  # by index: the term, and who waits
        self._reads = QuorumReads(world.rng)
        self._bytes = 0  # applied since the last snapshot
        self._unreached: list[Peer] = []  # members that a snapshot did not go to
        self._frozen_at = 0  # an index at which the state is being encoded
        self._snapshot: tuple[int, bytes] | None = None  # that waits until the log is free

    # --- beginning ----------------------------------------------------------------------------------

    def on_start(self) -> None:
        world = self._world
        if self._view.lifecycle == OFFLINE:
            return
        self._view.lifecycle, self._view.reason = OPENING, "its log is being read"
        new_id = f"{world.rng.getrandbits(128):032x}"
        self._client.submit(
            lambda: open_member(world.files, world.directory, new_id),
            lambda result: self.mailbox.post(Opened(by=self, result=result)),
        )

    def _on_opened(self, message: Opened) -> None:
        if message.by is not self:
            return
        member = message.result
        if not isinstance(member, OpenedMember):
            self._go_offline(member)
            self._view.opened.set()
            return
        self._member, self._wal = member, member.wal
        self._world.book.directory_id = member.member_id
        stored = member.recovered.stored
        if member.recovered.cut_bytes:
            self._world.log.warning("metadata_log_cut", bytes=member.recovered.cut_bytes)
        if stored.snapshot.index:
            self._restore(stored.snapshot)
            self._save(lambda: mark_member(self._world.files, self._world.directory, member))
            self._run(stored)
        else:
            self._view.lifecycle, self._view.reason = WAITING, "its cluster has not formed yet"
        self._view.opened.set()
        self._view.pulse()

    def _on_begin(self, message: Begin) -> None:
        member, world = self._member, self._world
        if self._view.lifecycle != WAITING or self._is_saving or member is None:
            return
        world.book.cluster_id = message.cluster_id
        stored = member.recovered.stored
        if message.snapshot is not None:
            stored = Stored(message.snapshot, HardState(message.snapshot.term))
            self._restore(message.snapshot)
        self._save(lambda: begin_member(world.files, world.directory, member, message.snapshot))
        self._run(stored)
        world.log.info("cluster_formed" if message.snapshot else "cluster_joined", cluster_id=message.cluster_id)
        self._view.pulse()

    def _run(self, stored: Stored) -> None:
        world = self._world
        me = Peer(world.book.node_id, world.book.directory_id)
        settings = Settings(election_ticks=QUORUM_ELECTION_TICKS, heartbeat_ticks=QUORUM_HEARTBEAT_TICKS)
        self._raft = Raft(me, stored, world.rng, settings)
        self._view.lifecycle, self._view.reason = RUNNING, ""
        self._look()
        voters = [peer.node for peer in self._raft.log.configuration.voters]
        if voters and sorted(voters) != sorted(world.book.wanted):
            world.log.info("peers_ignored", reason="the cluster has formed; its log says who votes", voters=voters)

    def _look(self) -> None:
        """Let others see where things stand."""
        raft, view = self._raft, self._view
        assert raft is not None
        configuration, standing = raft.log.configuration, raft.standing
        self._clock.leads(is_leader=raft.leadership is not None)
        if configuration != view.configuration or standing != view.standing:
            if standing.leader != view.standing.leader and standing.leader is not None:
                self._world.log.info("metadata_leader", node=standing.leader.node, term=standing.term)
            view.configuration, view.standing = configuration, standing
            self._world.book.members = {peer.node: peer.directory for peer in configuration.members}
            view.pulse()

    def _restore(self, snapshot: Snapshot) -> None:
        """The state is what the snapshot says. Raises `UnsupportedVersion`."""
        view, book = self._view, self._world.book
        view.state, view.applied = QuorumState.thaw(snapshot.data), snapshot.index
        book.cluster_id, book.founders = view.state.cluster_id or book.cluster_id, view.state.founders
        self._bytes = 0
        view.tell(None)
        view.pulse()

    def _go_offline(self, error: object) -> None:
        """For good: see the file's head."""
        reason = error.message if isinstance(error, DduomqError) else f"{type(error).__name__}: {error}"
        view = self._view
        view.error = error if isinstance(error, DduomqError) else StorageError(reason)
        view.lifecycle, view.reason = OFFLINE, f"{reason}; the node must be started again when that is mended"
        self._raft, self._ready = None, None
        self._world.log.error("metadata_offline", reason=view.reason)
        self._fail_all(view.refusal())
        view.pulse()

    # --- what happens -------------------------------------------------------------------------------

    def _running(self) -> Raft:
        if self._raft is None:
            raise self._view.refusal()
        return self._raft

    def _on_tick(self, _message: QuorumTick) -> None:
        raft, clock, view = self._raft, self._clock, self._view
        if raft is None:
            return
        raft.tick()
        for peer in self._unreached:  # not at once: the machine would send it again at once
            raft.unreachable(peer)
        self._unreached.clear()
        for session in clock.tick(view.state.sessions.values(), view.applied):
            if raft.leadership is not None:
                self._try(partial(raft.propose, commands.encode(ExpireSession(session))))
                self._world.log.info("session_expires", node=view.state.sessions[session].node, session=session)
        if clock.now % PROMOTE_TICKS == 0:
            self._promote(raft)
        self._reads.tick(clock.now)

    def _promote(self, raft: Raft) -> None:
        """A learner that has caught up takes the place of a voter that was removed."""
        configuration, leadership = raft.log.configuration, raft.leadership
        if leadership is None or len(configuration.voters) >= len(self._view.state.founders):
            return
        for learner in configuration.learners:
            if leadership.progress[learner].is_active and self._try(partial(raft.change, Promote(learner))):
                self._world.log.info("member_promoted", node=learner.node)
                return

    @staticmethod
    def _try(run: Callable[[], object]) -> bool:
        """False: it was refused, and comes again."""
        try:
            run()
        except DduomqError as error:
            if not error.retriable:
                raise
            return False
        return True

    def _on_stepped(self, message: Stepped) -> None:
        if self._raft is not None:
            for one in message.messages:
                self._raft.step(one)

    def _on_propose(self, message: Propose) -> None:
        proposed = self._running().propose(message.data)
        assert message.reply is not None
        self._waiting[proposed.index] = (proposed.term, message.reply)

    def _on_change(self, message: AskChange) -> None:
        raft, reply = self._running(), message.reply
        assert reply is not None
        configuration = raft.log.configuration
        named = next((p for p in configuration.members if p.node == message.node), None)
        peer = Peer(message.node, message.directory)
        if message.kind == "add" and peer == named and raft.leadership is not None:
            reply.set(raft.log.configuration_index)
            return
        if message.kind != "add" and named is None:
            raise InvalidChange(f"node {message.node} is no member of the metadata's quorum")
        kinds: dict[str, Callable[[Peer], Change]] = {"add": AddLearner, "promote": Promote, "remove": Remove}
        proposed = raft.change(kinds[message.kind](peer if named is None or message.kind == "add" else named))
        self._waiting[proposed.index] = (proposed.term, reply)
        self._world.log.info("member_changes", change=message.kind, node=message.node)

    def _on_hand_over(self, message: HandOver) -> None:
        raft = self._running()
        successor = None if raft.leadership is None else raft.leadership.successor()
        if successor is not None:
            raft.transfer(successor)
        assert message.reply is not None
        message.reply.set(successor is not None)

    def _on_read(self, message: AskRead) -> None:
        self._running()
        reply = message.reply
        assert reply is not None
        until = self._clock.now + message.ticks
        self._reads.add(lambda error: reply.set(None) if error is None else reply.fail(error), until)

    def _on_beat(self, message: BeatCame) -> None:
        """A leader answers when it is sure to lead, as only then the beat counts for whoever sent it."""
        raft, reply, view = self._running(), message.reply, self._view
        assert reply is not None
        self._clock.heard(message.session)
        if raft.leadership is None:
            reply.set(BeatAnswer(is_sure=False, is_over=view.is_over(message.session)))
        else:
            self._reads.add(
                lambda error: reply.set(BeatAnswer(is_sure=error is None, is_over=view.is_over(message.session))),
                self._clock.now + BEAT_TICKS,
            )

    # --- the work of a Ready ------------------------------------------------------------------------

    def after_drain(self) -> None:
        if self._raft is not None and not self._is_saving:
            try:
                self._work(self._raft)
            except (StorageError, OSError) as error:
                self._go_offline(error)

    def _work(self, raft: Raft) -> None:
        self._reads.ask(raft, self._clock.now)
        for _ in range(READIES_MAX):
            ready = raft.ready()
            if ready is None:
                break
            self._ready = ready
            if ready.hard_state is not None and self._wal is not None:
                self._save(partial(self._wal.save, ready.hard_state, ready.entries, ready.snapshot))
                return
            if not self._finish(raft, ready):
                return
        self._look()
        self._compact(raft)

    def _save(self, job: Callable[[], object]) -> None:
        self._is_saving = True
        self._client.submit(job, lambda result: self.mailbox.post(Saved(by=self, result=result)))

    def _on_saved(self, message: Saved) -> None:
        if message.by is not self:
            return
        self._is_saving = False
        if isinstance(message.result, BaseException):
            self._go_offline(message.result)
        elif self._raft is not None and self._ready is not None:
            self._finish(self._raft, self._ready)

    def _finish(self, raft: Raft, ready: Ready) -> bool:
        """Say, apply and answer what is on the disk. False: this member can't go on."""
        world = self._world
        self._unreached += send_all(world.links, world.book.cluster_id, ready.messages)
        try:
            if ready.snapshot is not None:
                self._restore(ready.snapshot)
            for entry in ready.committed:
                self._apply(entry)
        except DduomqError as error:
            self._go_offline(error)
            return False
        self._reads.confirmed(ready.reads)
        self._reads.lost(ready.lost_reads)
        for proposed in ready.unknown:
            self._answer_unknown(proposed.index)
        self._ready = None
        raft.advance()
        self._reads.answer(self._view.applied)
        self._look()
        return True

    def _apply(self, entry: LogEntry) -> None:
        """Raises `UnsupportedVersion`."""
        view = self._view
        term, reply = self._waiting.pop(entry.index, (0, None))
        outcome: object = entry.index
        if entry.data:
            sessions = view.state.session_changes
            outcome, changes = view.state.apply(entry.index, entry.data)
            self._bytes += len(entry.data)
            view.applied = entry.index
            if changes:
                view.tell(changes)
            if sessions != view.state.session_changes:
                view.pulse()
        view.applied = entry.index
        if reply is not None and not reply.done:
            if term == entry.term:
                reply.set(outcome)
            else:
                reply.fail(MetadataUnavailable("another leader came in between; nothing was applied"))

    def _answer_unknown(self, index: int) -> None:
        _, reply = self._waiting.pop(index, (0, None))
        if reply is not None and not reply.done:
            reply.fail(MetadataUnknown("the leader of the metadata changed; whether it was applied shows later"))

    # --- snapshots ----------------------------------------------------------------------------------

    def _compact(self, raft: Raft) -> None:
        """Keep a snapshot that is ready, or begin one when much was applied since the last. The bytes are made in a
        disk thread, of what does not change any more.
        """
        if self._snapshot is not None and self._wal is not None:
            (index, data), self._snapshot = self._snapshot, None
            if raft.log.snapshot.index < index <= raft.log.applied:
                self._save(partial(self._wal.compact, raft.compact(index, data)))
            return
        applied = self._view.applied
        is_due = applied - raft.log.snapshot.index >= QUORUM_SNAPSHOT_ENTRIES or self._bytes >= QUORUM_SNAPSHOT_BYTES
        if is_due and not self._frozen_at:
            self._frozen_at, self._bytes = applied, 0
            frozen = self._view.state.freeze()
            self._client.submit(
                lambda: encode_frozen(frozen),
                lambda result: self.mailbox.post(Encoded(by=self, index=applied, result=result)),
            )

    def _on_encoded(self, message: Encoded) -> None:
        if message.by is not self:
            return
        self._frozen_at = 0
        data = message.result
        if isinstance(data, bytes) and len(data) <= RAFT_SNAPSHOT_BYTES_MAX:
            self._snapshot = (message.index, data)
        else:
            size = len(data) if isinstance(data, bytes) else data
            self._world.log.error("metadata_too_large", size=size, most=RAFT_SNAPSHOT_BYTES_MAX)

    # --- the end ------------------------------------------------------------------------------------

    def _fail_all(self, error: DduomqError) -> None:
        """Answer all who wait: what was proposed may yet be applied."""
        for index in list(self._waiting):
            self._answer_unknown(index)
        self._reads.fail_all(error)

    def on_crash(self, error: BaseException) -> None:
        self._raft = None
        self._fail_all(MetadataUnavailable(f"the metadata's member begins anew: {type(error).__name__}"))

    async def quiesce(self) -> None:
        await self._client.idle()
