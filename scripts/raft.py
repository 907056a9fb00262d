"""Run simulations of the metadata quorum by seed; a failure prints what broke and the command that replays it."""

import argparse
import sys
import time
import traceback
from collections import Counter
from random import Random

from dduomq.cluster.raft import Raft
from dduomq.cluster.raft_conf import bootstrap
from dduomq.cluster.raft_ready import Stored
from dduomq.testing.raft_sim import simulate
from dduomq.wire.raft_messages import Peer, RaftMessage

TOGETHER = (1, 50, 200)
PROPOSALS = 20_000


def seeds(text: str) -> range:
    first, dots, last = text.partition("..")
    if not dots or not first.isdigit() or not last.isdigit() or int(first) > int(last):
        raise argparse.ArgumentTypeError("write a range of seeds like 0..299")
    return range(int(first), int(last) + 1)


def described(seen: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(seen.items()))


def measure() -> None:
    """Proposals a second of CPU: three members in memory, no disk and no codec, 200 bytes a command."""
    for together in TOGETHER:
        peers = [Peer(node, "a") for node in (1, 2, 3)]
        members = {peer: Raft(peer, Stored(bootstrap(peers)), Random(peer.node)) for peer in peers}
        leader = members[peers[0]]
        while leader.leadership is None:
            leader.tick()
            exchange(members)
        begun, command = time.process_time(), bytes(200)
        for _ in range(PROPOSALS // together):
            for _ in range(together):
                leader.propose(command)
            exchange(members)
        took = time.process_time() - begun
        assert leader.log.applied == leader.log.last
        print(f"{together} together: {PROPOSALS / took:,.0f} proposals a second")


def exchange(members: dict[Peer, Raft]) -> None:
    """Everybody works until nobody has anything to do or to say."""
    busy = True
    while busy:
        busy, wire = False, list[RaftMessage]()
        for member in members.values():
            ready = member.ready()
            if ready is not None:
                busy = True
                wire += ready.messages
                member.advance()
        for message in wire:
            members[message.target].step(message)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: ./scripts/raft --seeds 0..299")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, help="run this seed")
    which.add_argument("--seeds", type=seeds, help="run all seeds of a range, FIRST..LAST (default 0..299)")
    which.add_argument("--measure", action="store_true", help="proposals a second, in memory")
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
