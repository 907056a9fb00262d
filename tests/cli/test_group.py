"""`dduomq group`: what people and scripts get from it, against a real node."""

import json

import pytest
import trio

import dduomq
from dduomq.errors import CoordinatorLoading
from dduomq.wire import native_groups as wire
from tests.cli.shell import Shell, objects


def prepare(shell: Shell, name: str, *, joins: bool = True) -> str:
    """A topic of two partitions with ten records each, and a group that has read half of the first."""

    async def work() -> None:
        async with dduomq.connect(shell.environment["DDUOMQ_SERVER"]) as mq:
            await mq.admin.create_topic(name, partitions=2)
            for partition in range(2):
                await mq.send_batch(name, [b"x"] * 10, partition=partition)
            body = wire.GroupHeartbeat(name, f"{name}-member", 0, topics=(name,), owned=())
            for _ in range(100):
                try:
                    await mq._wire.ask(body, 5_000)
                    break
                except CoordinatorLoading:
                    await trio.sleep(0.05)
            commit = wire.CommitOffsets(name, f"{name}-member", 1, (wire.CommitPart(name, 0, 5),))
            await mq._wire.ask(commit, 5_000)
            if not joins:
                await mq._wire.ask(wire.GroupHeartbeat(name, f"{name}-member", wire.LEAVE), 5_000)

    trio.run(work)
    return name


def test_a_group_is_listed_and_described(shell: Shell) -> None:
    name = prepare(shell, "described")
    [listed] = [group for group in objects(shell("group", "list", "--json")) if group["name"] == name]
    assert listed == {"name": name, "kind": "consumer", "state": "Stable", "members": 1}
    [described] = objects(shell("group", "describe", name, "--json"))
    assert described["members"][0]["assignment"] == {name: [0, 1]}
    assert [part["records"] for part in described["partitions"]] == [5, 10]
    [members] = objects(shell("group", "members", name, "--json"))
    assert [member["member_id"] for member in members] == [f"{name}-member"]


def test_people_get_tables(shell: Shell) -> None:
    name = prepare(shell, "tables")
    shown = shell("group", "describe", name)
    for word in ("members", f"{name}-member", f"{name}:0,1", "committed", "behind"):
        assert word in shown
    assert name in shell("group", "list")
    assert f"{name}-member" in shell("group", "members", name)
    assert "behind" in shell("group", "lag", name)


def test_lag_is_in_records_and_seconds(shell: Shell) -> None:
    name = prepare(shell, "lag")
    first, second = objects(shell("group", "lag", name, "--json"))
    assert (first["committed"], first["end"], first["records"]) == (5, 10, 5)
    assert (second["committed"], second["records"]) == (None, 10)
    assert 0 < first["seconds"] < 600


@pytest.mark.parametrize(
    ("to", "after"),
    [("earliest", [0, 0]), ("latest", [10, 10]), ("7", [7, 7]), ("999", [10, 10]), ("2000-01-01T00:00:00Z", [0, 0])],
)
def test_a_group_is_set_back_or_on(shell: Shell, to: str, after: list[int]) -> None:
    name = prepare(shell, f"reset-{after[0]}-{len(to)}", joins=False)
    planned = objects(shell("group", "reset", name, name, "--to", to, "--dry-run", "--json"))
    assert [(move["before"], move["after"], move["done"]) for move in planned] == [
        (5, after[0], False), (None, after[1], False),
    ]  # fmt: skip
    assert [part["committed"] for part in objects(shell("group", "lag", name, "--json"))] == [5]
    shell("group", "reset", name, name, "--to", to, "--yes")
    assert [part["committed"] for part in objects(shell("group", "lag", name, "--json"))] == after


def test_a_group_is_moved_by_so_many(shell: Shell) -> None:
    name = prepare(shell, "shift", joins=False)
    shell("group", "reset", name, name, "--to=-2", "-p", 0, "--yes")
    assert [part["committed"] for part in objects(shell("group", "lag", name, "--json"))] == [3]
    shell("group", "reset", name, name, "--to=+1", "--yes")
    assert [part["committed"] for part in objects(shell("group", "lag", name, "--json"))] == [4]
    assert "committed nothing" in shell.fails("group", "reset", name, name, "--to", "+1", "-p", 1, "--yes")


def test_members_are_put_out_and_groups_forgotten(shell: Shell) -> None:
    name = prepare(shell, "deleted")
    assert "has 1 members" in shell.fails("group", "delete", name, "--yes", code=1)
    assert "has 1 members" in shell.fails("group", "reset", name, name, "--to", "earliest", "--yes", code=1)
    shell("group", "delete", name, "--member", f"{name}-member", "--yes")
    shell("group", "delete", name, "--topic", name, "--yes")
    assert objects(shell("group", "lag", name, "--json")) == []
    shell("group", "delete", name, "--yes")
    assert "no group" in shell.fails("group", "describe", name, code=1)


def test_mistakes_are_told_in_one_line(shell: Shell) -> None:
    assert "no group" in shell.fails("group", "lag", "nobody", code=1)
    assert "--to wants" in shell.fails("group", "reset", "g", "t", "--to", "sometimes", "--yes")
    assert "Say --yes" in shell.fails("group", "delete", "g")
    assert "--topic and --member" in shell.fails("group", "delete", "g", "--topic", "t", "--member", "m", "--yes")


def test_lag_is_watched(shell: Shell) -> None:
    name = prepare(shell, "watched-lag")
    watching = shell.start("group", "lag", name, "--watch", "0.1", "--json")
    try:
        lines = [json.loads(watching.stdout.readline()) for _ in range(6)]
        assert [line["records"] for line in lines] == [5, 10] * 3
    finally:
        watching.kill()
        watching.communicate()


def test_changes_are_told_as_they_happen(shell: Shell) -> None:
    name = prepare(shell, "watched")
    watching = shell.start("group", "describe", name, "--watch")
    try:
        lines = [watching.stdout.readline().decode() for _ in range(3)]
        assert "has come" in lines[1]
        shell("group", "delete", name, "--member", f"{name}-member", "--yes")
        assert "0 members" in watching.stdout.readline().decode()
        assert "has gone" in watching.stdout.readline().decode()
    finally:
        watching.kill()
        watching.communicate()


def test_consuming_as_a_member(shell: Shell) -> None:
    """Where one has stopped the next one goes on; the lag says so."""
    shell("topic", "create", "members", "-p", 2)
    shell("produce", "members", stdin="".join(f"{n}\n" for n in range(10)))
    first = shell("consume", "members", "--group", "readers", "--max", 4).splitlines()
    assert sum(part["records"] for part in objects(shell("group", "lag", "readers", "--json"))) == 6
    rest = shell("consume", "members", "--group", "readers").splitlines()
    assert sorted(map(int, first + rest)) == list(range(10))
    assert shell("consume", "members", "--group", "readers") == ""
    assert "leave --partition out" in shell.fails("consume", "members", "--group", "readers", "-p", 0)


@pytest.mark.parametrize("group", [[], ["--group", "filtered"]])
def test_consuming_what_matches(shell: Shell, group: list[str]) -> None:
    name = f"filtered-{len(group)}"

    async def work() -> None:
        async with dduomq.connect(shell.environment["DDUOMQ_SERVER"]) as mq:
            await mq.admin.create_topic(name, partitions=1)
            for price in range(10):
                await mq.send(name, str(price), headers={"price": str(price)}, tag="even" if price % 2 == 0 else "odd")

    trio.run(work)
    assert shell("consume", name, "--filter", "price > 6", *group).split() == ["7", "8", "9"]
    if not group:
        assert shell("consume", name, "--filter", "even").split() == ["0", "2", "4", "6", "8"]
    assert "filter, at" in shell.fails("consume", name, "--filter", "price >", *group)


def work_on(shell: Shell, name: str) -> None:
    """A share group that has done the first three of ten records, and has gone."""

    async def work() -> None:
        async with dduomq.connect(shell.environment["DDUOMQ_SERVER"]) as mq:
            await mq.admin.create_topic(name, partitions=1)
            await mq.send_batch(name, [str(n) for n in range(10)])
            async with mq.queue(name, group=name, auto_ack=False, prefetch=1, deliveries=7) as queue:
                for _ in range(4):
                    for record in await queue.pull():
                        if record.offset < 3:
                            await record.ack()

    trio.run(work)


def test_a_share_group_is_shown_and_moved(shell: Shell) -> None:
    """Its kind, its queue, how far it is; it goes on where it is told, and forgets what it is to forget."""
    work_on(shell, "sharing")
    [listed] = [group for group in objects(shell("group", "list", "--json")) if group["name"] == "sharing"]
    assert listed == {"name": "sharing", "kind": "share", "state": "Empty", "members": 0}
    [described] = objects(shell("group", "describe", "sharing", "--json"))
    assert [(part["committed"], part["end"], part["records"]) for part in described["partitions"]] == [(3, 10, 7)]
    assert described["queue"]["deliveries"] == 7
    assert described["queue"]["parts"][0]["acquired"] == 0
    shown = shell("group", "describe", "sharing")
    assert "being worked on" in shown
    moved = objects(shell("group", "reset", "sharing", "sharing", "--to", "-1", "--yes", "--json"))
    assert [(move["before"], move["after"]) for move in moved] == [(3, 2)]
    assert [part["records"] for part in objects(shell("group", "lag", "sharing", "--json"))] == [8]
    shell("group", "delete", "sharing", "--topic", "sharing", "--yes")
    assert objects(shell("group", "lag", "sharing", "--json")) == []
    shell("group", "delete", "sharing", "--yes")
    assert "sharing" not in [group["name"] for group in objects(shell("group", "list", "--json"))]
