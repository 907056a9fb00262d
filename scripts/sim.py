"""Run simulations by seed; a failure prints what broke and the one command that replays it."""

import argparse
import sys
import time
import traceback
from collections import Counter

from dduomq.testing.cluster_sim import simulate_cluster
from dduomq.testing.sim import Outcome, simulate


def seeds(text: str) -> range:
    first, dots, last = text.partition("..")
    if not dots or not first.isdigit() or not last.isdigit() or int(first) > int(last):
        raise argparse.ArgumentTypeError("write a range of seeds like 0..199")
    return range(int(first), int(last) + 1)


def described(faults: dict[str, int]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in sorted(faults.items())) or "no faults"


def show(outcome: Outcome) -> None:
    print(
        f"seed {outcome.seed}: {outcome.acked} acknowledged, {outcome.read} read; {described(outcome.faults)}; "
        f"trace {outcome.trace[:16]}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: ./scripts/sim --seeds 0..199")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, help="run this seed")
    which.add_argument("--seeds", type=seeds, help="run all seeds of a range, FIRST..LAST (default 0..19)")
    parser.add_argument("--cluster", action="store_true", help="several nodes and their clients, not one")
    given = parser.parse_args()
    run, flag = (simulate_cluster, "--cluster ") if given.cluster else (simulate, "")
    wanted = range(given.seed, given.seed + 1) if given.seed is not None else given.seeds or range(20)
    begun, failed, faults = time.perf_counter(), 0, Counter[str]()
    for seed in wanted:
        try:
            outcome = run(seed)
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"seed {seed} FAILED; replay it with: ./scripts/sim {flag}--seed {seed}")
        else:
            faults.update(outcome.faults)
            show(outcome)
    print(f"{len(wanted)} seeds, {failed} failed, {time.perf_counter() - begun:.1f} s; {described(faults)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
