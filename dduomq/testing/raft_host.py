"""One member of a simulated quorum: its disk, its write-ahead log, its machine, and its lives one after the other.

The work of a `Ready` is done in steps (save, send, apply), so that a crash can come between any two of them, and in the
middle of a save, where the next call to the disk never returns.
"""

import struct
from collections.abc import Callable, Mapping
from random import Random

from dduomq.cluster.raft import Raft
from dduomq.cluster.raft_ready import HardState, Ready, Settings, Stored
from dduomq.cluster.wal import Wal, open_wal
from dduomq.errors import StorageError
from dduomq.testing.disk import Platter
from dduomq.testing.raft_checker import Broken, Disk, Truth, after
from dduomq.wire.raft_messages import (
    Append,
    Appended,
    Heartbeat,
    InstallSnapshot,
    Peer,
    PreVote,
    PreVoteAnswer,
    RaftMessage,
    Snapshot,
    Vote,
    VoteAnswer,
)

DIRECTORY = "quorum"
SEGMENT_BYTES = 600
STATE = struct.Struct(">QI")
DISK_CALLS = ("write_at", "sync", "sync", "sync", "sync_dir", "replace", "remove")
SAVE, SEND, APPLY = "save", "send", "apply"


class Host:
    """`member` is None while it is down."""

    def __init__(self, peer: Peer, rng: Random, truth: Truth, settings: Settings, first: Snapshot | None) -> None:
        self.peer = peer
        self.platter = Platter(Random(rng.random()))
        self.disk = Disk()
        self.member: Raft | None = None
        self.applied = 0
        self.waiting: dict[int, int] = {}  # index and term of proposals that somebody waits for
        self.reads: dict[int, int] = {}  # by context: what a read must see at least
        self._rng = rng
        self._truth = truth
        self._settings = settings
        self._wal: Wal | None = None
        self._state = 0
        self._ready: Ready | None = None
        self._next = SAVE
        self._life = self._led = self._committed = 0
        self._heard: tuple[int, int] | None = None  # (term, ticks since a leader of it was heard)
        self._may_grant: dict[Peer, bool] = {}  # who has asked for a vote when nobody was heard
        if first is not None:
            wal, _ = open_wal(self.platter.files, DIRECTORY, SEGMENT_BYTES)
            wal.save(HardState(first.term), (), first)
            self.disk.keep((), first.term, None, (first.index, first.term))

    # --- lives --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a life with what the disk has. D1."""
        self._wal, recovered = open_wal(self.platter.files, DIRECTORY, SEGMENT_BYTES)
        stored = recovered.stored
        if recovered.cut_bytes:
            self._truth.seen["torn saves"] += 1
        found = _disk_of(stored)
        if not any(found.same(possible) for possible in self._possible()):
            raise Broken(f"D1: the disk of {self.peer} does not give back what it has kept")
        self.disk = found
        self.member = Raft(self.peer, stored, Random(self._rng.random()), self._settings)
        self._ready, self._next, self._heard, self._led = None, SAVE, None, 0
        self._life += 1
        self._may_grant.clear()
        self._restore(stored.snapshot)
        self._committed = self.member.log.committed

    def _possible(self) -> list[Disk]:
        """What may be found: what was kept, and if a save was under way, that too, or its snapshot alone."""
        if self._ready is None or self._next != SAVE:
            return [self.disk]
        whole = self.disk.copy()
        _keep(whole, self._ready)
        if self._ready.snapshot is None:
            return [self.disk, whole]
        half = self.disk.copy()
        half.keep((), half.term, half.vote, _place(self._ready.snapshot))
        return [self.disk, half, whole]

    def crash(self, *, is_power_lost: bool) -> None:
        """All at once; while a save is under way it may get as far as any call to the disk."""
        if self._ready is not None and self.is_saving and self._rng.random() < 0.8:
            self._save_in_part(self._ready)
        self.member, self._wal = None, None
        self.waiting.clear()
        self.reads.clear()
        if is_power_lost:
            self.platter.lose_power()
        else:
            self.platter.kill()

    def _save_in_part(self, ready: Ready) -> None:
        files, call = self.platter.files, self._rng.choice(DISK_CALLS)
        setattr(files, call, _never_returns)
        try:
            self._save(ready)
        except StorageError:
            return
        self._next = SEND  # that call was not needed

    # --- what happens -------------------------------------------------------------------------------

    def tick(self) -> None:
        if self.member is not None:
            self.member.tick()
            if self._heard is not None:
                self._heard = self._heard[0], self._heard[1] + 1

    def step(self, message: RaftMessage) -> None:
        member = self.member
        if member is None or message.target != self.peer:
            return
        if isinstance(message, PreVote | Vote):
            may = not self._hears() or (isinstance(message, Vote) and message.is_transfer)
            self._may_grant[message.source] = may or self._may_grant.get(message.source, False)
        member.step(message)
        if isinstance(message, Append | Heartbeat | InstallSnapshot) and message.term == member.term:
            self._heard = message.term, 0

    def _hears(self) -> bool:
        """E3, counted apart from the machine: a leader of the present term was heard not long ago."""
        if self.member is None or self._heard is None:
            return False
        return self._heard[0] == self.member.term and self._heard[1] < self._settings.election_ticks

    def look(self, disks: Mapping[Peer, Disk]) -> bool:
        """A leader is looked at after every step, a follower when it applies. True: it has just won."""
        member = self.member
        if member is None or member.leadership is None:
            return False
        is_new = self._led != member.term
        if is_new:
            self._led = member.term
            self._truth.leads(self.peer, self._life, member.term, member.log)
        if member.log.committed > self._committed:
            self._truth.commits(member.log, self._committed, member.log.configuration, disks)
            self._committed = member.log.committed
        return is_new

    # --- the work of a Ready ------------------------------------------------------------------------

    @property
    def term_led(self) -> int:
        """The term that it believes to lead in; 0 for none."""
        return 0 if self.member is None or self.member.leadership is None else self.member.term

    @property
    def is_busy(self) -> bool:
        return self._ready is not None

    @property
    def is_saving(self) -> bool:
        """Whether the next step is a save."""
        return self._ready is not None and self._ready.must_sync and self._next == SAVE

    def work(self, send: Callable[[RaftMessage], None]) -> bool:
        """The next step of the work; False if there is nothing to do."""
        if self.member is None:
            return False
        if self._ready is None:
            self._ready, self._next = self.member.ready(), SAVE
            if self._ready is None:
                return False
            self._truth.writes(self.peer, self._ready.entries, self.member.log)
            return True
        self._do(self._ready, send)
        return True

    def _do(self, ready: Ready, send: Callable[[RaftMessage], None]) -> None:
        if self._next == SAVE:
            self._save(ready)
            self._next = SEND
        elif self._next == SEND:
            self._send(ready, send)
            self._next = APPLY
        else:
            self._apply(ready)
            self._ready = None

    def _save(self, ready: Ready) -> None:
        assert self._wal is not None
        if ready.hard_state is not None:
            self._wal.save(ready.hard_state, ready.entries, ready.snapshot)
        _keep(self.disk, ready)

    def _send(self, ready: Ready, send: Callable[[RaftMessage], None]) -> None:
        for message in ready.messages:
            self._promise(message)
            send(message)

    def _promise(self, message: RaftMessage) -> None:
        """D1, E1, E3: what is said must be on the disk, and may be said."""
        is_grant = isinstance(message, VoteAnswer | PreVoteAnswer) and message.is_granted
        if is_grant and not self._may_grant.get(message.target, False):
            raise Broken(f"E3: {self.peer} hears a leader and grants {message.target} a vote")
        if isinstance(message, VoteAnswer) and message.is_granted:
            self._truth.votes(self.peer, message.term, message.target)
            if (self.disk.term, self.disk.vote) != (message.term, message.target) and self.disk.term <= message.term:
                raise Broken(f"D1: {self.peer} gives a vote of term {message.term} that is not on its disk")
        if isinstance(message, Appended) and self.member is not None and self.member.term == message.term:
            term = self.member.log.term_at(message.match)
            if term != -1 and not self.disk.holds(message.match, term):
                raise Broken(f"D1: {self.peer} says that it has entry {message.match}, and its disk has not")

    def _apply(self, ready: Ready) -> None:
        assert self.member is not None
        if ready.snapshot is not None:
            self._restore(ready.snapshot)
            self._truth.seen["snapshots received"] += 1
        for proposed in ready.unknown:
            if self.waiting.pop(proposed.index, None) is not None:
                self._truth.seen["unknown outcomes"] += 1
        for entry in ready.committed:
            self._truth.applies(self.peer, entry, self.applied)
            self.applied, self._state = entry.index, after(self._state, entry)
            if self.waiting.pop(entry.index, entry.term) != entry.term:
                raise Broken(f"O1: proposal {entry.index} at {self.peer} is lost, and nobody has said so")
        for read in ready.reads:
            wanted = self.reads.pop(read.context, 0)
            if read.index < wanted:
                raise Broken(f"R1: a read at {self.peer} sees {read.index}, {wanted} was committed before it")
            self._truth.seen["reads"] += 1
        self.member.advance()
        self._check_waiting()

    def _check_waiting(self) -> None:
        """O1: whose leadership has ended has nobody wait in vain, but for what is to be applied or named just now."""
        member = self.member
        if member is None or not self.waiting:
            return
        named = {proposed.index for proposed in member._unknown}
        for index, term in self.waiting.items():
            is_led = member.leadership is not None and member.term == term
            if not is_led and index not in named and index > member.log.committed:
                raise Broken(f"O1: nobody tells what became of proposal {index} of term {term} at {self.peer}")

    def _restore(self, snapshot: Snapshot) -> None:
        if snapshot.data:
            index, self._state = STATE.unpack(snapshot.data)
            if index != snapshot.index or self._state != self._truth.state_at(index):
                raise Broken(f"C2: {self.peer} has a snapshot at {snapshot.index} of something else")
        else:
            self._state = 0
        self.applied = snapshot.index

    def compact(self) -> None:
        """A snapshot of what is applied, if there is anything new."""
        member = self.member
        if member is None or self._wal is None or self.is_busy or member.log.applied <= member.log.snapshot.index:
            return
        snapshot = member.compact(self.applied, STATE.pack(self.applied, self._state))
        self._wal.compact(snapshot)
        self.disk.compact(*_place(snapshot))
        self._truth.seen["compactions"] += 1


def _never_returns(*_arguments: object, **_named: object) -> None:
    raise StorageError("the machine has stopped here")


def _place(snapshot: Snapshot) -> tuple[int, int]:
    return snapshot.index, snapshot.term


def _keep(disk: Disk, ready: Ready) -> None:
    if ready.hard_state is not None:
        anew = None if ready.snapshot is None else _place(ready.snapshot)
        disk.keep(ready.entries, ready.hard_state.term, ready.hard_state.vote, anew)


def _disk_of(stored: Stored) -> Disk:
    disk = Disk()
    disk.keep(stored.entries, stored.hard_state.term, stored.hard_state.vote, _place(stored.snapshot))
    return disk
