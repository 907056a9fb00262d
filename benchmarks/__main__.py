"""`./scripts/bench [NAME...] [--quick]`: measure, print JSON lines, then a table."""

import argparse
import importlib
import platform
import time
from pathlib import Path

from benchmarks.harness import Results

NAMES = ("rest", "sends", "raw", "connections", "kafka", "groups", "queue", "delays", "cluster", "steady")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[*NAMES, []], help=f"which to run (default: all of {', '.join(NAMES)})"
    )
    parser.add_argument("--quick", action="store_true", help="shorter runs, for a first look")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    results = Results(folder / f"{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
    for name in given.names or NAMES:
        importlib.import_module(f"benchmarks.{name}").run(results, quick=given.quick)
    print(f"\nPython {platform.python_version()}, {platform.machine()}\n\n{results.table()}")


if __name__ == "__main__":
    main()
