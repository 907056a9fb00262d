"""A quorum in one seeded run: one, three or five members, which lose messages, their power and each other.

`simulate(seed)` lets chance decide what happens next: a message comes, or is lost, comes twice, or late; time passes
somewhere; somebody proposes, reads, changes the members, hands over, makes a snapshot; ways are cut, one way or both;
members crash and start again. After each step the invariants of `raft_checker.py` must hold. Then all faults end, and a
leader must be found and everybody come to the same state. Same seed, same run: `trace` says so.
"""

import hashlib
from collections.abc import Callable
from random import Random

import attrs

from dduomq.cluster.raft_conf import AddLearner, Change, Promote, Remove, bootstrap
from dduomq.cluster.raft_ready import Settings
from dduomq.errors import DduomqError
from dduomq.testing.raft_checker import Broken, Truth
from dduomq.testing.raft_host import Host
from dduomq.wire.raft import decode, encode
from dduomq.wire.raft_messages import Peer, RaftMessage

STEPS = 6_000
HOSTS_MAX = 9
MESSAGES_MAX = 400
HEAL_TICKS = 400
SUDDEN = 0.03  # chance of a crash in a save


@attrs.frozen
class Outcome:
    """What a run showed. `seen`: how often what has happened."""

    seed: int
    trace: str
    seen: dict[str, int]


class Simulation:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = Random(seed)
        self.settings = Settings(
            election_ticks=10,
            heartbeat_ticks=rng.choice((1, 2, 3)),
            batch_bytes_max=rng.choice((1, 40, 400)),
            in_flight_max=rng.choice((1, 3, 20)),
            uncommitted_bytes_max=rng.choice((60, 20_000)),
            apply_bytes_max=rng.choice((1, 100, 2_000)),
            entries_kept=rng.choice((0, 3, 20)),
            learner_lag_max=5,
        )
        self.loss = rng.choice((0.0, 0.02, 0.1))
        self.trouble = rng.choice((0.3, 1.0, 2.0))
        self.hurry = rng.choice((20, 40, 80))  # how much time passes between two messages
        self.pace = rng.choice((1.0, 0.2))  # of slow disks
        self.ambush = 0.0
        if rng.random() < 0.3:  # leaders come and go before they have told anybody much
            self.ambush = 0.6
            self.settings = attrs.evolve(self.settings, batch_bytes_max=1, in_flight_max=1)
        peers = [Peer(node, "a") for node in range(1, rng.choice((1, 3, 3, 5, 5)) + 1)]
        first = bootstrap(peers)
        self.truth = Truth(first.index)
        self.seen = self.truth.seen
        self.hosts = {peer: Host(peer, rng, self.truth, self.settings, first) for peer in peers}
        self.disks = {peer: host.disk for peer, host in self.hosts.items()}
        self.wire: list[RaftMessage] = []
        self.cuts: set[tuple[Peer, Peer]] = set()
        self.slow: set[Peer] = set()
        self.drowsy: set[Peer] = set()
        self._contexts = self._commands = 0
        self._hash = hashlib.sha256()
        for host in self.hosts.values():
            host.start()

    # --- what may happen ----------------------------------------------------------------------------

    def run(self) -> Outcome:
        """All of it. Raises `Broken`."""
        happenings, weights = self._happenings()
        for what in self.rng.choices(happenings, weights, k=STEPS):
            what()
        self.heal()
        self._trace("end", self.truth.last, self.truth.state_at(self.truth.last))
        return Outcome(self.seed, self._hash.hexdigest(), dict(self.seen))

    def _happenings(self) -> tuple[list[Callable[[], None]], list[float]]:
        trouble = self.trouble
        table: list[tuple[Callable[[], None], float]] = [
            (self.deliver, 60), (self.work, 20), (self.tick, self.hurry), (self.propose, 6), (self.read, 4),
            (self.compact, 1), (self.change, 0.5 * trouble), (self.transfer, 0.1 * trouble),
            (self.crash, 0.15 * trouble), (self.start, 0.8), (self.cut, 0.3 * trouble), (self.mend, 0.5),
            (self.slow_down, 0.4 * trouble), (self.strand, 0.1 * trouble),
        ]  # fmt: skip
        return [what for what, _ in table], [weight for _, weight in table]

    def _trace(self, *event: object) -> None:
        self._hash.update(repr(event).encode())

    def _any(self) -> Host:
        return self.rng.choice(list(self.hosts.values()))

    def _leading(self) -> Host | None:
        """Somebody who believes to lead, most likely the one of the latest term."""
        leading = [host for host in self.hosts.values() if host.term_led]
        if leading and self.rng.random() < 0.2:
            return self.rng.choice(leading)
        return max(leading, key=lambda host: host.term_led, default=None)

    def _any_or_leading(self) -> Host:
        return (self._leading() if self.rng.random() < 0.4 else None) or self._any()

    def _send(self, message: RaftMessage) -> None:
        if len(self.wire) >= MESSAGES_MAX:
            self.wire.pop(self.rng.randrange(len(self.wire)))
        self.wire.append(message)

    def _look(self, host: Host) -> None:
        self.disks[host.peer] = host.disk
        if host.look(self.disks) and self.rng.random() < self.ambush:
            self._cut_off([host.peer], "both")  # it leads, and nobody hears of it: what figure 8 is made of

    def deliver(self) -> None:
        """A message comes, mostly one of the older ones; or it doesn't."""
        if not self.wire:
            return
        at = min(self.rng.randrange(len(self.wire)), self.rng.randrange(len(self.wire)))
        if self.rng.random() < 0.02:
            self.seen["messages twice"] += 1
            message = self.wire[at]
        else:
            message = self.wire.pop(at)
        if (message.source, message.target) in self.cuts or self.rng.random() < self.loss:
            self.seen["messages lost"] += 1
            return
        if self.rng.random() < 0.1:
            message = decode(encode(message))
        host = self.hosts[message.target]
        host.step(message)
        self._look(host)
        self._work_all(host)

    def _work_all(self, host: Host) -> None:
        """The work of one Ready, if the disk is not slow; now and then it stays half done."""
        while host.peer not in self.slow and host.work(self._send) and self.rng.random() < 0.97:
            self._look(host)
            if not host.is_busy:
                break
            if host.is_saving and self.rng.random() < SUDDEN * self.trouble:
                self._crash(host)
        self._look(host)

    def work(self) -> None:
        """One step, seldom, at a slow disk; elsewhere what was left half done."""
        host = self._any()
        if host.peer in self.slow:
            if self.rng.random() < self.pace:
                host.work(self._send)
                self._look(host)
        else:
            self._work_all(host)

    def tick(self) -> None:
        host = self._any()
        if host.peer in self.drowsy and self.rng.random() < 0.9:
            return
        host.tick()
        self._look(host)
        self._work_all(host)

    def propose(self) -> None:
        host = self._leading()
        if host is None or host.member is None:
            return
        self._commands += 1
        data = b"%d" % self._commands + bytes(self.rng.choice((0, 10, 700, 3_000)))
        try:
            proposed = host.member.propose(data)
        except DduomqError as error:
            self.seen[type(error).__name__] += 1
            return
        host.waiting[proposed.index] = proposed.term
        if self.rng.random() < 0.7:
            self._work_all(host)

    def read(self) -> None:
        leading = [host for host in self.hosts.values() if host.term_led]
        host = min(leading, key=lambda host: host.term_led) if len(leading) > 1 else self._any_or_leading()
        if host.member is None:
            return
        self._contexts += 1
        try:
            host.member.read(self._contexts)
        except DduomqError as error:
            self.seen[type(error).__name__] += 1
            return
        host.reads[self._contexts] = self.truth.last

    def compact(self) -> None:
        self._any().compact()

    # --- trouble ------------------------------------------------------------------------------------

    def change(self) -> None:
        """The members change by one."""
        host = self._leading()
        if host is None or host.member is None:
            return
        configuration = host.member.log.configuration
        changes: list[Change] = [Promote(peer) for peer in configuration.learners for _ in range(3)]
        changes += [Remove(peer) for peer in configuration.members if len(configuration.voters) > 1]
        newcomer = self._newcomer(configuration.members)
        if newcomer is not None:
            changes += [AddLearner(newcomer)] * 4
        if not changes:
            return
        change = self.rng.choice(changes)
        if isinstance(change, AddLearner) and change.peer not in self.hosts:
            self._join(change.peer)
        try:
            host.member.change(change)
        except DduomqError as error:
            self.seen[type(error).__name__] += 1
            return
        self.seen["changes"] += 1
        self._trace("change", str(change))
        self._work_all(host)

    def _newcomer(self, members: tuple[Peer, ...]) -> Peer | None:
        """A new node, one that was removed and comes back, or one with a new disk."""
        absent = [peer for peer in self.hosts if peer.node not in {member.node for member in members}]
        if absent and self.rng.random() < 0.5:
            return self.rng.choice(absent)
        if len(self.hosts) >= HOSTS_MAX:
            return None
        number = len(self.hosts) + 1
        return Peer(self.rng.choice(absent).node, f"new{number}") if absent else Peer(number, "a")

    def _join(self, peer: Peer) -> None:
        host = self.hosts[peer] = Host(peer, self.rng, self.truth, self.settings, None)
        self.disks[peer] = host.disk
        host.start()

    def transfer(self) -> None:
        host = self._leading()
        if host is None or host.member is None:
            return
        try:
            host.member.transfer(self.rng.choice(host.member.log.configuration.voters))
        except DduomqError:
            return
        self.seen["transfers"] += 1

    def crash(self) -> None:
        host = self._any_or_leading()
        if host.member is not None:
            self._crash(host)

    def _crash(self, host: Host) -> None:
        is_power_lost = self.rng.random() < 0.7
        self.seen["power losses" if is_power_lost else "kills"] += 1
        self._trace("crash", str(host.peer))
        host.crash(is_power_lost=is_power_lost)

    def start(self) -> None:
        down = [host for host in self.hosts.values() if host.member is None]
        if down:
            host = self.rng.choice(down)
            host.start()
            self._look(host)

    def cut(self) -> None:
        """A member or two are cut off, both ways or one."""
        some = [host.peer for host in (self._any_or_leading(), self._any())][: self.rng.choice((1, 1, 2))]
        self._cut_off(some, self.rng.choice(("in", "out", "both", "both")))

    def _cut_off(self, some: list[Peer], ways: str) -> None:
        self.seen["cuts " + ways] += 1
        for inside in some:
            for outside in [peer for peer in self.hosts if peer not in some]:
                if ways != "in":
                    self.cuts.add((inside, outside))
                if ways != "out":
                    self.cuts.add((outside, inside))

    def strand(self) -> None:
        """A leader is cut off, and its clock is slow: it believes to lead while others elect another one."""
        host = self._leading()
        if host is not None:
            self._cut_off([host.peer], "both")
            self.drowsy.add(host.peer)

    def mend(self) -> None:
        """All ways are open and all disks fast again, or those of one member."""
        if self.rng.random() < 0.5:
            self.mend_all()
            return
        peer = self._any().peer
        self.slow.discard(peer)
        self.drowsy.discard(peer)
        self.cuts = {ends for ends in self.cuts if peer not in ends}

    def mend_all(self) -> None:
        self.cuts.clear()
        self.slow.clear()
        self.drowsy.clear()

    def slow_down(self) -> None:
        """A disk, or a clock."""
        if self.rng.random() < 0.5:
            self.slow.add(self._any_or_leading().peer)
            self.seen["slow disks"] += 1
        else:
            self.drowsy.add(self._any_or_leading().peer)
            self.seen["slow clocks"] += 1

    # --- the end ------------------------------------------------------------------------------------

    def heal(self) -> None:
        """No more faults: there is a leader soon, it commits, and all members come to its state."""
        self.mend_all()
        self.ambush = self.trouble = 0.0
        for host in self.hosts.values():
            if host.member is None:
                host.start()
        target = None
        for _ in range(HEAL_TICKS):
            for host in self.hosts.values():
                host.tick()
            self._calm()
            leader = max(self.hosts.values(), key=lambda host: host.term_led)
            if not leader.term_led:
                continue
            if target is None or self.truth.last < target:
                target = self._propose_last(leader) or target
            elif self._all_there(leader, target):
                return
        raise Broken(f"after all faults have ended, {HEAL_TICKS} ticks were not enough to agree")

    def _calm(self) -> None:
        """All that is on its way comes, in its order."""
        for _ in range(100):
            for host in self.hosts.values():
                while host.work(self._send):
                    self._look(host)
            wire, self.wire = self.wire, []
            for message in wire:
                self.hosts[message.target].step(message)
                self._look(self.hosts[message.target])
            if not wire:
                return

    def _propose_last(self, host: Host) -> int | None:
        assert host.member is not None
        try:
            return host.member.propose(b"the last one").index
        except DduomqError:
            return None

    def _all_there(self, host: Host, target: int) -> bool:
        assert host.member is not None
        members = [self.hosts[peer] for peer in host.member.log.configuration.members]
        return all(member.applied >= target for member in members)


def simulate(seed: int) -> Outcome:
    """One run. Raises `Broken`, or what else goes wrong."""
    return Simulation(seed).run()
