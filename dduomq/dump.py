"""`dduomq-dump`: print, verify and replay the files of a log.

Works on the files of a running node, of a dead one, and on Kafka's. Exit codes: 0 all is well, 1 something in
the files is damaged or could not be published, 2 the command was wrong. Standard output holds only what was
asked for; everything else goes to standard error.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NoReturn

from dduomq import __version__
from dduomq.dumping.bounds import Bound, Bounds, parse_bound
from dduomq.dumping.printing import Printer, Style
from dduomq.dumping.targets import Kind, Target, expand
from dduomq.dumping.verify import Verdict, verify
from dduomq.errors import ConfigError, DduomqError, InvalidTopic, UsageError

MISTAKES = (ConfigError, InvalidTopic, UsageError)
EXAMPLES = """\
examples:
  dduomq-dump dduomq-data/topics/orders-0/00000000000000000000.log
  dduomq-dump dduomq-data/topics/orders-0                     all segments of a partition
  dduomq-dump --from 1000 --max 10 dduomq-data/topics/orders-0
  dduomq-dump --from 2026-05-01T12:00:00Z --json FILE.log | jq .value
  dduomq-dump --verify dduomq-data                            all topics of a node
  dduomq-dump --replay localhost:6086/orders-again FILE.log
"""


def parser() -> argparse.ArgumentParser:
    """The command line; every option says its default."""
    parse = argparse.ArgumentParser(
        prog="dduomq-dump",
        description="Print, verify and replay the files of a log: .log, .index, .timeindex, .snapshot, .txnindex.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("--version", action="version", version=f"dduomq-dump {__version__}")
    parse.add_argument("paths", nargs="+", metavar="PATH", help="a file, a partition's directory, a data directory")
    work = parse.add_argument_group("instead of printing").add_mutually_exclusive_group()
    work.add_argument("--verify", action="store_true", help="check CRCs, order and indexes; exit 1 at a fault")
    work.add_argument("--replay", metavar="HOST:PORT/TOPIC", help="publish the records again")
    which = parse.add_argument_group("which records")
    bound = "offset (1234) or time (2026-05-01T12:00:00Z, 1714557600000ms)"
    which.add_argument("--from", dest="start", metavar="WHERE", help=f"first {bound}; default: the beginning")
    which.add_argument("--to", dest="stop", metavar="WHERE", help="where to stop, not included; default: the end")
    which.add_argument("--max", type=int, metavar="N", help="N records at most; default: all")
    how = parse.add_argument_group("how to print")
    how.add_argument("--json", action="store_true", help="one JSON object a line")
    how.add_argument("--batches", "--headers-only", action="store_true", help="batch headers only, no records")
    how.add_argument("--records", action="store_true", help="records only, no batch headers")
    how.add_argument("--keys", action="store_true", help="records without their values")
    how.add_argument("--values", action="store_true", help="values only, one a line")
    how.add_argument("--cut", type=int, default=200, metavar="N", help="cut text after N characters, 0: never (200)")
    parse.add_argument("--partition", type=int, metavar="N", help="--replay into this partition; default: by key")
    return parse


def _bounds(options: argparse.Namespace) -> Bounds:
    start = parse_bound(options.start) if options.start is not None else Bound()
    stop = parse_bound(options.stop) if options.stop is not None else Bound()
    return Bounds(start, stop)


def _check(options: argparse.Namespace) -> None:
    """Raises `ConfigError` for options that would be left aside without a word."""
    for name in ("max", "cut"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise ConfigError(f"--{name} wants 0 or more, not {value}")
    if options.verify and (options.start, options.stop, options.max) != (None, None, None):
        raise ConfigError("--verify looks at the whole of a file; leave --from, --to and --max out")
    if options.partition is not None and options.replay is None:
        raise ConfigError("--partition says where --replay publishes; to print one, name its directory")


def run(options: argparse.Namespace) -> int:
    """Do what the options say; the exit code. Raises `DduomqError` and `OSError`."""
    _check(options)
    bounds = _bounds(options)
    if options.verify:
        return _verify(expand(options.paths, logs_only=False), as_json=options.json)
    if options.replay is not None:
        return _replay(options, bounds)
    return _print(options, bounds)


def _print(options: argparse.Namespace, bounds: Bounds) -> int:
    targets = expand(options.paths, logs_only=True)
    style = Style(
        json=options.json,
        batches=not options.records,
        records=not options.batches,
        values=not options.keys,
        values_only=options.values,
        cut=options.cut,
        records_max=options.max,
    )
    printer = Printer(sys.stdout, bounds, style)
    for target in targets:
        if printer.is_done:
            break
        printer.show(target, title=len(targets) > 1)
    if printer.damage is None:
        return 0
    sys.stdout.flush()
    print(f"error: damaged: {printer.damage}; --verify says more", file=sys.stderr)
    return 1


def _verify(targets: list[Target], *, as_json: bool) -> int:
    verdicts = []
    with _verify_progress(targets) as (progress, say):
        for verdict in verify(targets, progress):
            verdicts.append(verdict)
            say(json.dumps(_verdict_json(verdict)) if as_json else _verdict_text(verdict))
    faults = [fault for verdict in verdicts for fault in verdict.faults]
    if faults:
        sys.stdout.flush()
        print(f"error: {len(faults)} faults; the first: {faults[0]}", file=sys.stderr)
        return 1
    if not as_json:
        records = sum(verdict.records for verdict in verdicts)
        size = sum(verdict.bytes for verdict in verdicts)
        print(f"all is well: {len(verdicts)} files, {records:,} records, {size:,} bytes")
    return 0


@contextmanager
def _verify_progress(targets: list[Target]) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """What is told of the bytes gone through, and what prints a line: with a bar below while a person looks on."""
    if not sys.stderr.isatty():
        yield lambda _: None, print
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    is_seen = sys.stdout.isatty()
    console = Console(stderr=not is_seen)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    total = sum(target.path.stat().st_size for target in targets if target.kind is Kind.LOG)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("verifying", total=total)
        say = partial(console.print, soft_wrap=True, markup=False, highlight=False, emoji=False) if is_seen else print
        yield lambda size: bar.advance(task, size), say


def _verdict_text(verdict: Verdict) -> str:
    lines = [f"{verdict.path}: FAULT"] if verdict.faults else [f"{verdict.path}: ok"]
    if verdict.batches:
        lines[0] += f", {verdict.batches:,} batches, {verdict.records:,} records"
        lines[0] += f", offsets {verdict.first_offset}..{verdict.next_offset - 1}"
        lines[0] += f", {verdict.index_entries:,} index entries"
    lines += [f"  fault: {fault}" for fault in verdict.faults]
    lines += [f"  note: {note}" for note in verdict.notes]
    return "\n".join(lines)


def _verdict_json(verdict: Verdict) -> dict[str, object]:
    return {
        "type": "verdict",
        "file": str(verdict.path),
        "ok": not verdict.faults,
        "batches": verdict.batches,
        "records": verdict.records,
        "bytes": verdict.bytes,
        "first_offset": verdict.first_offset,
        "next_offset": verdict.next_offset,
        "index_entries": verdict.index_entries,
        "faults": [{"file": str(f.path), "position": f.position, "text": f.text} for f in verdict.faults],
        "notes": verdict.notes,
    }


def _replay(options: argparse.Namespace, bounds: Bounds) -> int:
    from dduomq.dumping.replay import parse_destination, replay

    parse_destination(options.replay)
    targets = [target for target in expand(options.paths, logs_only=True) if target.kind is Kind.LOG]
    if not targets:
        raise ConfigError("only .log files can be replayed")
    count, left_out = replay(targets, bounds, options.replay, options.partition, options.max)
    print(f"{count:,} records published to {options.replay}", file=sys.stderr)
    if left_out:
        print(f"{left_out:,} records left out: their transactions are not committed in these files", file=sys.stderr)
    return 0


def _fail(text: str, code: int) -> NoReturn:
    print(f"dduomq-dump: error: {text}", file=sys.stderr)
    sys.exit(code)


def cli(args: Sequence[str] | None = None) -> NoReturn:
    """The console script."""
    options = parser().parse_args(args)
    try:
        code = run(options)
        sys.stdout.flush()
    except MISTAKES as error:
        _fail(error.message, 2)
    except DduomqError as error:
        _fail(error.message, 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(f"{error.filename or 'the file'}: {(error.strerror or str(error)).lower()}", 2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code)


if __name__ == "__main__":
    cli()
