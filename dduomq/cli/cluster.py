"""`dduomq cluster …`: look at a cluster, move partitions, elect leaders, empty nodes, start one to try."""

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from dduomq.cli.common import DEFAULT_SERVER, Json, Server, confirm, print_json, print_table, say, with_client
from dduomq.errors import UsageError

if TYPE_CHECKING:
    from dduomq.client.client import Client

app = typer.Typer(
    help="Look at a cluster, move partitions, elect leaders, empty nodes; start one to try.", no_args_is_help=True
)

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")]
Partition = Annotated[int, typer.Argument(min=0, metavar="PARTITION", help="Its number.")]
POLL_S = 0.5


@app.command(epilog="Example: dduomq cluster status")
def status(server: Server = DEFAULT_SERVER, json: Json = False) -> None:
    """Show the nodes, who is the controller, and what is not as it should be."""
    found = with_client(server, _status)
    if json:
        print_json(attrs.asdict(found))
        return
    _print_nodes(found)
    say(f"{found.partitions} partitions, {found.moving} of them are being moved")
    for what, names in (("have no leader", found.offline), ("lack replicas in sync", found.under_replicated)):
        if names:
            shown = ", ".join(f"{one.topic}-{one.partition}" for one in names[:20])
            say(f"{len(names)} {what}: {shown}{' …' if len(names) > 20 else ''}")
    if found.controller < 0:
        say("no node is the controller: most nodes, or the metadata engine, can't be reached")


@app.command(epilog="Example: dduomq cluster nodes --json | jq .node_id")
def nodes(server: Server = DEFAULT_SERVER, json: Json = False) -> None:
    """List the nodes."""
    found = with_client(server, _status)
    if json:
        for node in found.nodes:
            print_json(attrs.asdict(node))
    else:
        _print_nodes(found)


async def _status(mq: "Client") -> Any:
    return await mq.admin.cluster_status()


def _print_nodes(found: Any) -> None:
    def state(node: Any) -> str:
        if not node.is_alive:
            return "not alive"
        return "draining" if node.is_draining else "controller" if node.node_id == found.controller else "alive"

    print_table(
        f"cluster {found.cluster_id}",
        ["node", "address", "zone", "state", "epoch", "leads", "keeps"],
        [
            (
                node.node_id, f"{node.host}:{node.port}" if node.host else "", node.zone, state(node), node.epoch,
                node.leaders, node.replicas,
            )
            for node in found.nodes
        ],
    )  # fmt: skip


@app.command(epilog="Example: dduomq cluster partitions orders --moving")
def partitions(
    topics: Annotated[list[str] | None, typer.Argument(metavar="[TOPIC]...", help="Only of these; else all.")] = None,
    moving: Annotated[bool, typer.Option("--moving", help="Only those that are being moved, and how far.")] = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Show where partitions are: replicas, those in sync, leader, and moves under way."""

    async def work(mq: "Client") -> Any:
        return await mq.admin.partition_places(topics, moving=moving)

    places = with_client(server, work)
    if json:
        for place in places:
            print_json(attrs.asdict(place))
    elif not places:
        say("no partition is being moved" if moving else "there are no partitions yet")
    else:
        _print_places(places)


def _print_places(places: Sequence[Any]) -> None:
    print_table(
        "",
        ["partition", "leader", "epoch", "replicas", "in sync", "move"],
        [
            (
                f"{place.topic}-{place.partition}", place.leader if place.leader >= 0 else "none",
                place.leader_epoch, _listed(place.replicas), _listed(place.isr), _progress(place),
            )
            for place in places
        ],
    )  # fmt: skip


def _progress(place: Any) -> str:
    if not place.adding and not place.removing:
        return "recovering" if place.is_recovering else ""
    ready = sum(node in place.isr for node in place.adding)
    removing = f", then off {_listed(place.removing)}" if place.removing else ""
    return f"to {_listed(place.adding)}: {ready} of {len(place.adding)} in sync{removing}" if place.adding else removing


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


@app.command(epilog="Example: dduomq cluster reassign orders 3 --to 2,3,4")
def reassign(
    topic: Topic,
    partition: Partition,
    to: Annotated[str, typer.Option("--to", metavar="NODE,...", help="Its replicas; the first is to lead.")] = "",
    cancel: Annotated[bool, typer.Option("--cancel", help="Give its move up.")] = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Move one partition to other nodes, or give its move up. See also: dduomq cluster balance."""
    if bool(to) == cancel:
        raise UsageError("say where to with --to NODE,..., or --cancel")
    replicas = None if cancel else _numbers(to, "--to")

    async def work(mq: "Client") -> Any:
        await mq.admin.reassign({(topic, partition): replicas})
        return [one for one in await mq.admin.partition_places([topic]) if one.partition == partition]

    places = with_client(server, work)
    if json:
        print_json(attrs.asdict(places[0]))
    else:
        _print_places(places)


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} wants numbers of nodes, as in 1,2,3, not {text!r}") from None


@app.command(epilog="Example: dduomq cluster balance --empty 4 --at-once 10 --yes")
def balance(
    empty: Annotated[
        list[int] | None, typer.Option("--empty", metavar="NODE", help="Leave nothing on this node; repeatable.")
    ] = None,
    at_once: Annotated[
        int, typer.Option("--at-once", min=1, max=1000, help="So many partitions are moved at the same time.")
    ] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be moved, move nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Level the nodes, after one was added or before one goes, with as few moves as that takes.

    Ctrl-C stops it between two moves; those under way go on.
    """

    async def plan(mq: "Client") -> Any:
        return await mq.admin.plan_moves(empty or ())

    moves = with_client(server, plan)
    if json and (dry_run or not moves):
        print_json([attrs.asdict(move) for move in moves])
        return
    if not moves:
        say("nothing is to be moved")
        return
    if not json:
        rows = [(f"{m.topic}-{m.partition}", _listed(m.before), _listed(m.after)) for m in moves]
        print_table("", ["partition", "replicas now", "replicas then"], rows)
    if dry_run:
        return
    confirm(f"Move {len(moves)} partitions, {at_once} at the same time?", yes=yes)
    with_client(server, lambda mq: _move(mq, moves, at_once))
    if json:
        print_json({"moved": len(moves)})
    else:
        say(f"{len(moves)} partitions are moved")


async def _move(mq: "Client", moves: Sequence[Any], at_once: int) -> None:
    """All moves, some at a time, until the last one is done."""
    import anyio

    waiting = list(moves)
    under_way: set[tuple[str, int]] = set()
    while waiting or under_way:
        moving = {(one.topic, one.partition) for one in await mq.admin.partition_places(moving=True)}
        under_way &= moving
        room = at_once - len(under_way)
        batch, waiting = waiting[:room], waiting[room:]
        if batch:
            await mq.admin.reassign({(move.topic, move.partition): move.after for move in batch})
            under_way |= {(move.topic, move.partition) for move in batch}
        say(f"{len(moves) - len(waiting) - len(under_way)} of {len(moves)} moved")
        await anyio.sleep(POLL_S)


@app.command(epilog="Example: dduomq cluster leaders orders 3")
def leaders(
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="Only of this topic.")] = None,
    partition: Annotated[int | None, typer.Argument(min=0, metavar="[PARTITION]", help="Only this one.")] = None,
    unclean: Annotated[
        bool, typer.Option("--unclean", help="Where none in sync is alive, let any lead: loses what that one lacks.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Let preferred replicas lead again, everywhere or of one topic."""
    if unclean:
        confirm("Let replicas lead that are not in sync? Acknowledged records may be lost.", yes=yes)

    async def work(mq: "Client") -> Any:
        if topic is None:
            return await mq.admin.elect_leaders(unclean=unclean)
        places = await mq.admin.partition_places([topic])
        chosen = [
            (one.topic, one.partition)
            for one in places
            if (one.partition == partition)
            or (partition is None and (one.leader < 0 if unclean else one.leader not in {-1, one.replicas[0]}))
        ]
        if partition is not None and not chosen:
            raise UsageError(f"topic {topic} has partitions 0 to {len(places) - 1}, not {partition}")
        return await mq.admin.elect_leaders(chosen, unclean=unclean) if chosen else []

    results = with_client(server, work)
    if json:
        for one in results:
            print_json(attrs.asdict(one))
    elif not results:
        say("nothing is to be done: " + ("every partition has a leader" if unclean else "preferred replicas lead"))
    else:
        rows = [(f"{one.topic}-{one.partition}", one.leader, one.message or "elected") for one in results]
        print_table("", ["partition", "leader", ""], rows)
    if any(one.code for one in results):
        raise typer.Exit(1)


@app.command(epilog="Example: dduomq cluster remove 3")
def remove(
    node: Annotated[int, typer.Argument(min=0, metavar="NODE", help="The node's number.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Forget a node that is gone for good, or whose data directory is. It may join again, as a new one.

    What it kept stays assigned to its number: empty it before ('dduomq cluster balance --empty'), or let the new one
    catch up.
    """
    confirm(f"Node {node} will have no vote any more: is it stopped for good, or its directory lost?", yes=yes)
    with_client(server, lambda mq: mq.admin.remove_node(node))
    say(f"node {node} is no member any more")


@app.command(epilog="Example: dduomq cluster drain 3 --wait")
def drain(
    node: Annotated[int, typer.Argument(min=0, metavar="NODE", help="The node's number.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it lead again.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it leads nothing.")] = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Let a node lead nothing, so that it may stop without anybody noticing; --undo takes that back."""

    async def work(mq: "Client") -> int:
        import anyio

        await (mq.admin.undrain_node(node) if undo else mq.admin.drain_node(node))
        while True:
            found = await mq.admin.cluster_status()
            leads = next(one.leaders for one in found.nodes if one.node_id == node)
            if undo or not wait or not leads:
                return leads
            await anyio.sleep(POLL_S)

    leads = with_client(server, work)
    if json:
        print_json({"node": node, "is_draining": not undo, "leads": leads})
    else:
        wish = "may lead again" if undo else "is to lead nothing"
        say(f"node {node} {wish}; it leads {leads} partitions now")


@app.command("start-local", epilog="Example: dduomq cluster start-local 3 --data ./cluster")
def start_local(
    count: Annotated[int, typer.Argument(min=1, max=9, metavar="NODES", help="How many nodes.")] = 3,
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Where they keep their logs.")] = Path("cluster"),
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_000, help="The first one's; 0: whichever are free.")
    ] = 6086,
) -> None:
    """Start a cluster on this machine, to try things out. Ctrl-C stops it."""
    from dduomq.cli.local import LocalCluster

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with LocalCluster(count, data, port) as cluster:
        for node_id, address in cluster.addresses.items():
            print(f"node {node_id}: {address}, data in {data / f'node-{node_id}'}", flush=True)
        say(f"the cluster is up; try: dduomq cluster status --server {cluster.addresses[1]}")
        say("Ctrl-C stops it")
        try:
            while True:
                cluster.check()
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            say("stopping")
