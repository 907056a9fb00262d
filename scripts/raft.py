"""Run simulations of the metadata quorum by seed; a failure prints what broke and the command that replays it."""

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from random import Random

from dduomq.cluster.raft import Raft
from dduomq.cluster.raft_conf import bootstrap
from dduomq.cluster.raft_ready import HardState, Stored
from dduomq.cluster.wal import Wal, open_wal
from dduomq.log.files import RealFiles
from dduomq.testing.raft_sim import simulate
from dduomq.wire.raft import decode, encode
from dduomq.wire.raft_messages import Peer, RaftMessage

TOGETHER = (1, 50, 200)


def seeds(text: str) -> range:
    first, dots, last = text.partition("..")
    if not dots or not first.isdigit() or not last.isdigit() or int(first) > int(last):
        raise argparse.ArgumentTypeError("write a range of seeds like 0..299")
    return range(int(first), int(last) + 1)


def described(seen: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(seen.items()))


class Three:
    """Three members in one process, in memory, or each with its log on the disk and with bytes between them."""

    def __init__(self, directory: str | None) -> None:
        peers = [Peer(node, "a") for node in (1, 2, 3)]
        first = bootstrap(peers)
        self.members = {peer: Raft(peer, Stored(first), Random(peer.node)) for peer in peers}
        self.leader = self.members[peers[0]]
        self.wals: dict[Peer, Wal] = {}
        if directory is not None:
            files = RealFiles()
            for peer in peers:
                self.wals[peer], _ = open_wal(files, f"{directory}/{peer.node}")
                self.wals[peer].save(HardState(1), (), first)
        while self.leader.leadership is None:
            self.leader.tick()
            self.exchange()

    def exchange(self) -> None:
        """Everybody works until nobody has anything to do or to say."""
        busy = True
        while busy:
            busy, wire = False, list[RaftMessage]()
            for peer, member in self.members.items():
                ready = member.ready()
                if ready is not None:
                    busy = True
                    if self.wals and ready.hard_state is not None:
                        self.wals[peer].save(ready.hard_state, ready.entries, ready.snapshot)
                    wire += [decode(encode(message)) for message in ready.messages] if self.wals else ready.messages
                    member.advance()
            for message in wire:
                self.members[message.target].step(message)


def measure() -> None:
    """Proposals a second of 200 bytes, so many of them at once."""
    with tempfile.TemporaryDirectory() as directory:
        for name, place, proposals in (("in memory", None, 20_000), ("bytes and fdatasync", directory, 4_000)):
            for together in TOGETHER:
                three, command = Three(None if place is None else f"{place}/{together}"), bytes(200)
                begun = time.perf_counter()
                for _ in range(proposals // together):
                    for _ in range(together):
                        three.leader.propose(command)
                    three.exchange()
                took = time.perf_counter() - begun
                assert three.leader.log.applied == three.leader.log.last
                print(f"{name}, {together} together: {proposals / took:,.0f} proposals a second")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: ./scripts/raft --seeds 0..299")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, help="run this seed")
    which.add_argument("--seeds", type=seeds, help="run all seeds of a range, FIRST..LAST (default 0..299)")
    which.add_argument("--measure", action="store_true", help="proposals a second of three members in one process")
    given = parser.parse_args()
    if given.measure:
        measure()
        return 0
    wanted = range(given.seed, given.seed + 1) if given.seed is not None else given.seeds or range(300)
    begun, failed, seen = time.perf_counter(), 0, Counter[str]()
    for seed in wanted:
        try:
            outcome = simulate(seed)
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"seed {seed} FAILED; replay it with: ./scripts/raft --seed {seed}")
        else:
            seen.update(outcome.seen)
            if len(wanted) == 1:
                print(f"seed {seed}: trace {outcome.trace[:16]}")
    print(f"{len(wanted)} seeds, {failed} failed, {time.perf_counter() - begun:.1f} s; {described(seen)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
