"""`trio-run MODULE [ARGS...]`: run `MODULE.main(args)` under trio, and end in good order.

Exit codes: 0 an orderly stop, 1 failed while running, 2 could not start. SIGINT and SIGTERM cancel `main`,
which then cleans up; a second one ends the process at once. A user's mistake is one line, not a traceback.
"""

import importlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from dduomq.errors import ConfigError, DduomqError

USAGE = "usage: trio-run MODULE [ARGS...]\n\nexample: trio-run dduomq.node --id 1 --data ./dduomq-data"


async def _cancel_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if scope.cancel_called:
                os._exit(130)
            scope.cancel()


async def _run(main: Callable[[Sequence[str]], Awaitable[Any]], args: Sequence[str]) -> None:
    async with trio.open_nursery() as nursery:
        work = trio.CancelScope()
        nursery.start_soon(_cancel_on_signal, work)
        with work:
            await main(args)
        nursery.cancel_scope.cancel()


def _flatten(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _flatten(inner)]
    return [error]


def _report(error: BaseException) -> int:
    """Say what went wrong; the exit code."""
    leaves = _flatten(error)
    for leaf in leaves:
        if isinstance(leaf, SystemExit):  # --help
            return leaf.code if isinstance(leaf.code, int) else 0
    for leaf in leaves:
        if isinstance(leaf, ConfigError):
            print(f"error: {leaf.message}", file=sys.stderr)
            return 2
    for leaf in leaves:
        if isinstance(leaf, DduomqError):
            print(f"error: {leaf.message}", file=sys.stderr)
            return 1
    if all(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return 130
    kinds = ", ".join(sorted({f"{type(leaf).__name__}: {leaf}" for leaf in leaves}))
    print(f"error: this is a bug in {kinds}; set DDUOMQ_TRACEBACK=1 to see where", file=sys.stderr)
    if os.environ.get("DDUOMQ_TRACEBACK"):
        raise error
    return 1


def cli() -> None:
    """The console script `trio-run`."""
    args = sys.argv[1:]
    if not args or args[0] in {"-h", "--help"}:
        print(USAGE)
        sys.exit(0 if args else 2)
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(args[0])
    except ModuleNotFoundError as error:
        print(f"error: there is no module {error.name!r}; {USAGE.splitlines()[-1]}", file=sys.stderr)
        sys.exit(2)
    except (TypeError, ValueError):
        if not args[0] or args[0].startswith("."):  # a path, or nothing
            print(f"error: {args[0]!r} is not the name of a module; {USAGE.splitlines()[-1]}", file=sys.stderr)
            sys.exit(2)
        raise
    main = getattr(module, "main", None)
    if main is None:
        print(f"error: {args[0]} has no 'async def main(args)' to run", file=sys.stderr)
        sys.exit(2)
    try:
        trio.run(_run, main, args[1:], strict_exception_groups=True)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        sys.exit(_report(error))


if __name__ == "__main__":
    cli()
