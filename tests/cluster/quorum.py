"""A few members, their disks and a network, all in the test's hand: nothing happens that the test has not asked for."""

from random import Random

import attrs

from dduomq.cluster.raft import Raft
from dduomq.cluster.raft_conf import bootstrap
from dduomq.cluster.raft_ready import LEADER, HardState, Ready, Settings, Stored
from dduomq.cluster.wal import NOTHING
from dduomq.wire.raft_messages import Peer

SETTINGS = Settings(election_ticks=10, heartbeat_ticks=2, entries_kept=0)


def peer(node, directory="a"):
    return Peer(node, directory)


def until(is_done, rounds_max=500):
    """Go round until it is done; a test that waits for ever fails."""
    for _ in range(rounds_max):
        if is_done():
            return
        yield
    raise AssertionError("it never came to that")


class Quorum:
    """`members` by node; `disks` outlive them; `applied` are commands by node; `reads` what came of them."""

    def __init__(self, *nodes, outside=(), settings=SETTINGS):
        self.settings = settings
        self.wire = []  # what was sent and not yet delivered
        self.cuts = set()  # (from, to) that lose everything
        first = Stored(bootstrap([peer(node) for node in nodes]), HardState(term=1))
        self.disks = {**dict.fromkeys(nodes, first), **dict.fromkeys(outside, Stored(NOTHING))}
        self.applied = {node: [] for node in self.disks}
        self.reads = {node: [] for node in self.disks}
        self.readies = {node: [] for node in self.disks}  # all that were done
        self.members = {}
        for node in self.disks:
            self.start(node)

    def __getitem__(self, node):
        return self.members[node]

    def start(self, node):
        """It begins with what its disk holds."""
        stored = self.disks[node]
        self.members[node] = Raft(peer(node), stored, Random(node), self.settings)
        self.applied[node] = [stored.snapshot.data] if stored.snapshot.data else []

    def crash(self, node):
        del self.members[node]

    # --- one member ---------------------------------------------------------------------------------

    def persist(self, node, ready: Ready):
        held = self.disks[node]
        if ready.snapshot is not None:
            held = Stored(ready.snapshot, held.hard_state)
        if ready.entries:
            kept = [entry for entry in held.entries if entry.index < ready.entries[0].index]
            held = attrs.evolve(held, entries=(*kept, *ready.entries))
        self.disks[node] = attrs.evolve(held, hard_state=ready.hard_state or held.hard_state)

    def send(self, ready: Ready):
        self.wire += ready.messages

    def apply(self, node, ready: Ready):
        if ready.snapshot is not None:
            self.applied[node] = [ready.snapshot.data] if ready.snapshot.data else []
        self.applied[node] += [entry.data for entry in ready.committed if entry.data]
        self.reads[node] += ready.reads
        self.readies[node].append(ready)

    def work(self, node):
        """Do all that is ready at one member; True if there was anything."""
        ready = self[node].ready()
        if ready is None:
            return False
        self.persist(node, ready)
        self.send(ready)
        self.apply(node, ready)
        self[node].advance()
        return True

    def compact(self, node, data):
        member = self[node]
        snapshot = member.compact(member.log.applied, data)
        held = self.disks[node]
        entries = tuple(entry for entry in held.entries if entry.index > snapshot.index)
        self.disks[node] = attrs.evolve(held, snapshot=snapshot, entries=entries)

    # --- all of them --------------------------------------------------------------------------------

    def deliver(self):
        """All that is on its way; True if there was anything."""
        wire, self.wire = self.wire, []
        for message in wire:
            ends = message.source.node, message.target.node
            if ends not in self.cuts and message.target.node in self.members:
                self[message.target.node].step(message)
        return bool(wire)

    def settle(self):
        """Work and deliver until nothing happens any more."""
        for _ in range(200):
            busy = [self.work(node) for node in list(self.members)]
            if not self.deliver() and not any(busy):
                return
        raise AssertionError("this never ends")

    def tick(self, count=1, nodes=None):
        """Time passes for these members, for all if none is named, and all that comes of it happens."""
        for _ in range(count):
            for node in nodes or list(self.members):
                self[node].tick()
            self.settle()

    def elect(self, node):
        """Time passes for this member alone until it stands; the others have not heard of a leader for long."""
        for other, member in self.members.items():
            if other != node and member.leadership is None:
                member._silence = self.settings.election_ticks
        for _ in range(2 * self.settings.election_ticks):
            self[node].tick()
            self.settle()
            if self[node].role == LEADER:
                return self[node]
        raise AssertionError(f"{node} was not elected")

    def cut(self, *nodes):
        """Nothing comes to these or from these, but among themselves."""
        others = [node for node in self.disks if node not in nodes]
        self.cuts |= {(a, b) for a in nodes for b in others} | {(b, a) for a in nodes for b in others}

    def heal(self):
        self.cuts.clear()

    def sent(self, kind):
        return [message for message in self.wire if isinstance(message, kind)]
