"""The demonstration that `scripts/demo` runs: real rows, a real kill, and an account of every record."""

import csv
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import attrs
import trio
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import dduomq
from dduomq.errors import DduomqError

PARTITIONS = 4
SENDERS = 8
KILL_AFTER_SHARE = 0.5
DUMP_LINES = 8
SNOWY = "AK"
LADDER_S = (0.3, 0.6)  # pauses before the second and the third try
PATIENCE_S = 60

console = Console(highlight=False)
logging.getLogger("dduomq").setLevel(logging.CRITICAL)  # failing handlers are a part of the show


class Node:
    """A node started as a user would start it."""

    def __init__(self, data: Path, port: int = 0) -> None:
        command = ["trio-run", "dduomq.node", "--id", "1", "--data", str(data)]
        command += ["--listen", f"127.0.0.1:{port}", "--log-format", "json"]
        console.print(f"[dim]$ {' '.join(command[:6])} ...[/dim]")
        begun = time.perf_counter()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        checked: list[int] = []
        for line in self.process.stderr:
            event = json.loads(line) if line.startswith("{") else {"event": line.strip()}
            if event["event"] == "node_ready":
                self.address = event["listen"][0]
                self.port = int(self.address.rpartition(":")[2])
                self.ready_s = time.perf_counter() - begun
                if checked:
                    size = f"{sum(checked):,} bytes of {len(checked)} logs"
                    console.print(f"  recovery checked {size}, every batch's CRC")
                return
            if event["event"] == "log_recovered":
                checked.append(event["scanned_bytes"])
        raise SystemExit("the node did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def progress() -> Progress:
    return Progress(
        TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


async def stream_airports(address: str, rows: list[dict[str, str]]) -> float:
    """Send every row, keyed by state, many at a time; the seconds it took."""
    begun = time.perf_counter()
    async with dduomq.connect(address, serializer=dduomq.json) as mq:
        await mq.admin.create_topic("airports", partitions=PARTITIONS)
        with progress() as bar:
            task = bar.add_task("sending", total=len(rows))
            deliveries = [await mq.send_async("airports", row, key=row["state"]) for row in rows]
            for delivery in deliveries:
                await delivery
                bar.advance(task)
    return time.perf_counter() - begun


async def read_all(address: str, topic: str, count: int) -> list[dict[str, str]]:
    """Everything in a topic, as it was sent."""
    found: list[dict[str, str]] = []
    async with dduomq.connect(address, serializer=dduomq.json) as mq, mq.reader(topic, wait=1.0) as reader:
        while len(found) < count and (records := await reader.pull(5_000)):
            found += [record.value for record in records]
    return found


async def stream_and_kill(node: Node, data: Path, rows: list[dict[str, str]]) -> tuple[dict[int, object], int, Node]:
    """Eight tasks send rows one by one; half-way the node is killed and started again on the same port.

    The acknowledged rows by number, how many of them came before the kill, and the new node.
    """
    acked: dict[int, object] = {}
    numbers = iter(range(len(rows)))
    killed = trio.Event()
    before = 0

    async def send(mq: dduomq.Client, bar: Progress, task: int) -> None:
        for number in numbers:
            try:
                acked[number] = await mq.send("temperatures", {"number": number, **rows[number]})
            except DduomqError as error:
                console.print(f"  [red]row {number}: {error.message}[/red]")
            bar.advance(task)  # type: ignore[arg-type]
            if len(acked) > len(rows) * KILL_AFTER_SHARE:
                killed.set()

    async with dduomq.connect(node.address, serializer=dduomq.json) as mq:
        await mq.admin.create_topic("temperatures", partitions=PARTITIONS)
        with progress() as bar:
            task = bar.add_task("sending", total=len(rows))
            async with trio.open_nursery() as nursery:
                for _ in range(SENDERS):
                    nursery.start_soon(send, mq, bar, task)
                await killed.wait()
                before = len(acked)
                await trio.to_thread.run_sync(node.kill)
                console.print(f"  [bold red]SIGKILL[/bold red] after {before:,} acknowledged rows")
                node = await trio.to_thread.run_sync(Node, data, node.port)
                console.print(f"  [green]up again[/green] in {node.ready_s:.2f} s; the senders go on by themselves")
    return acked, before, node


@attrs.define
class Visits:
    """What a group did that visits every airport, and can't land in Alaska before summer."""

    landed: list[str] = attrs.field(factory=list)
    tries: int = 0
    letters: int = 0
    redriven: int = 0


async def visit(address: str, rows: list[dict[str, str]]) -> Visits:
    """Handlers that fail step aside: tried again, then dead letters; these are sent on, and done."""
    visits, is_summer = Visits(), False
    snowed_in = sum(row["state"] == SNOWY for row in rows)

    async def land(record: dduomq.GroupRecord) -> None:
        airport = record.value
        if airport["state"] == SNOWY and not is_summer:
            visits.tries += 1
            raise RuntimeError(f"snow on the runway of {airport['name']}")
        visits.landed.append(airport["iata"])

    async def until_landed(count: int) -> None:
        with trio.fail_after(PATIENCE_S):
            while len(visits.landed) < count:  # noqa: ASYNC110  # handlers are at work
                await trio.sleep(0.05)

    async with (
        dduomq.connect(address, serializer=dduomq.json) as mq,
        mq.consumer("airports", group="tour", retry=LADDER_S) as consumer,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(partial(consumer.run, land, concurrency=16, ordered="none"))
        await until_landed(len(rows) - snowed_in)
        console.print(f"  {len(visits.landed):,} airports visited; nobody waited for the {snowed_in} that failed")
        with trio.fail_after(PATIENCE_S):
            while visits.letters < snowed_in:
                await trio.sleep(0.1)
                visits.letters = sum(one.count for one in await mq.admin.dead_letter_groups() if one.group == "tour")
        console.print(f"  {visits.tries} tries later {visits.letters} rest as dead letters, for example:")
        first, *_ = [letter async for letter in mq.admin.dead_letters("tour")]
        console.print(
            f"  [dim]{first.origin_topic}-{first.origin_partition} offset {first.origin_offset}: {first.reason}: "
            f"{first.error}[/dim]"
        )
        is_summer = True
        visits.redriven = await mq.admin.redrive("tour")
        console.print(f"  [green]summer:[/green] {visits.redriven} dead letters sent on")
        await until_landed(len(rows))
        await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    return visits


def dump(path: Path) -> Iterator[str]:
    done = subprocess.run(["dduomq-dump", str(path)], capture_output=True, text=True, check=True)
    yield from done.stdout.splitlines()


def check_airports(sent: list[dict[str, str]], found: list[dict[str, str]]) -> bool:
    return sorted(map(str, sent)) == sorted(map(str, found))


def account(acked: dict[int, object], found: list[dict[str, str]], rows: int) -> dict[str, int]:
    """What became of every row of the second stream."""
    numbers = [int(row["number"]) for row in found]
    return {
        "rows": rows,
        "acknowledged": len(acked),
        "lost": len(set(acked) - set(numbers)),
        "doubled": len(numbers) - len(set(numbers)),
        "read back": len(numbers),
    }


def summary(
    airports: int, seconds: float, is_same: bool, before: int, counts: dict[str, int], visits: Visits, ready_s: float
) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2))
    verdict = "[green]identical[/green]" if is_same else "[red]DIFFERENT[/red]"
    table.add_row("airports sent and read back", f"{airports:,}", verdict)
    table.add_row("  at", f"{airports / seconds:,.0f}/s", "each fsynced before its ack")
    table.add_row("temperatures acknowledged", f"{counts['acknowledged']:,}", f"{before:,} before the SIGKILL")
    for name in ("lost", "doubled"):
        colour = "green" if not counts[name] else "red"
        table.add_row(f"  {name}", f"[{colour}]{counts[name]}[/{colour}]", "")
    table.add_row("visited, some after dead letters", f"{len(visits.landed):,}", f"{visits.redriven} sent on")
    table.add_row("back after the kill in", f"{ready_s:.2f} s", "recovery included")
    return table


async def main(source: Path) -> int:
    airports, temperatures = rows_of(source / "airports.csv"), rows_of(source / "seattle-temps.csv")
    home = Path(tempfile.mkdtemp(prefix="dduomq-demo-"))
    node: Node | None = None
    try:
        console.rule("[bold]1  a node")
        node = Node(home)
        console.print(f"  ready at {node.address} in {node.ready_s:.2f} s")
        console.rule("[bold]2  a stream, and back")
        seconds = await stream_airports(node.address, airports)
        is_same = check_airports(airports, await read_all(node.address, "airports", len(airports)))
        console.print(f"  {len(airports):,} airports read back: {'identical' if is_same else 'NOT the same'}")
        console.rule("[bold]3  a kill in the middle")
        acked, before, node = await stream_and_kill(node, home, temperatures)
        found = await read_all(node.address, "temperatures", len(acked))
        counts = account(acked, found, len(temperatures))
        console.rule("[bold]4  what can't be done at once")
        visits = await visit(node.address, airports)
        console.rule("[bold]5  what lies on the disk")
        segment = max((home / "topics").glob("airports-*/*.log"), key=lambda path: path.stat().st_size)
        console.print(f"[dim]$ dduomq-dump {segment.parent.name}/{segment.name}[/dim]")
        for line in list(dump(segment))[:DUMP_LINES]:
            console.print("  " + line[: console.width - 4], markup=False)
        console.print("  ...")
        node.stop()
        table = summary(len(airports), seconds, is_same, before, counts, visits, node.ready_s)
        is_good = is_same and not counts["lost"] and not counts["doubled"]
        is_good = is_good and sorted(visits.landed) == sorted(row["iata"] for row in airports)
        title = "[bold green]nothing lost, nothing doubled" if is_good else "[bold red]something is wrong"
        console.print(Panel(table, title=title, expand=False))
        return 0 if is_good else 1
    finally:
        if node is not None and node.process.poll() is None:
            node.process.kill()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(trio.run(main, Path(sys.argv[1])))
