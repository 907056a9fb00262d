"""Send faulty requests to nodes on a virtual clock, or to the codec alone, until the time is over.

A finding prints the request and what replays it.
"""

import argparse
import sys
import time

import trio
import trio.testing

from tests.listeners.fuzzing import Finding, fuzz
from tests.wire.kafka.fuzzing import fuzz_codec


def fuzz_node(seed: int) -> int:
    return trio.run(fuzz, seed, clock=trio.testing.MockClock(autojump_threshold=0))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="stop after so long (default 30)")
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed (default 0)")
    parser.add_argument("--codec", action="store_true", help="the codec alone: far more requests, no nodes")
    given = parser.parse_args()
    run, mode = (fuzz_codec, " --codec") if given.codec else (fuzz_node, "")
    begun, seed, sent = time.monotonic(), given.seed if given.seed is not None else given.first, 0
    while True:
        try:
            sent += run(seed)
        except (Finding, Exception, BaseExceptionGroup) as error:
            print(f"seed {seed} FAILED: {error!r}\nreplay it with: ./scripts/fuzz{mode} --seed {seed}")
            return 1
        if given.seed is not None or time.monotonic() - begun > given.seconds:
            print(f"{sent} requests, seeds {given.seed or given.first} to {seed}, nothing found")
            return 0
        seed += 1


if __name__ == "__main__":
    sys.exit(main())
