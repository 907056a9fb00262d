"""Run simulations by seed; a failure prints what broke and the one command that replays it."""

import argparse
import sys
import time
import traceback

from dduomq.testing.sim import Outcome, simulate


def seeds(text: str) -> range:
    first, dots, last = text.partition("..")
    if not dots or not first.isdigit() or not last.isdigit():
        raise argparse.ArgumentTypeError("write a range of seeds like 0..199")
    return range(int(first), int(last) + 1)


def show(outcome: Outcome) -> None:
    print(
        f"seed {outcome.seed}: {outcome.acked} acknowledged, {outcome.read} read, {outcome.kills} kills, "
        f"{outcome.power_losses} power losses, trace {outcome.trace[:16]}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: ./scripts/sim --seeds 0..199")
    parser.add_argument("--seed", type=int, help="run this seed")
    parser.add_argument("--seeds", type=seeds, help="run all seeds of a range, FIRST..LAST", default=range(20))
    given = parser.parse_args()
    wanted = range(given.seed, given.seed + 1) if given.seed is not None else given.seeds
    begun, failed = time.perf_counter(), 0
    for seed in wanted:
        try:
            show(simulate(seed))
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"seed {seed} FAILED; replay it with: ./scripts/sim --seed {seed}")
    print(f"{len(wanted)} seeds, {failed} failed, {time.perf_counter() - begun:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
