"""`dduomq dlq`: what people and scripts get from it, against a real node."""

import trio

import dduomq
from tests.cli.shell import Shell, objects


async def rest(mq: dduomq.Client, group: str, count: int) -> bool:
    """Whether so many dead letters of that group rest."""
    return any(one.group == group and one.count == count for one in await mq.admin.dead_letter_groups())


def bury(shell: Shell, topic: str, group: str, *values: str) -> None:
    """Let a group reject these."""

    async def reject() -> None:
        async with dduomq.connect(shell.server) as mq:
            for number, value in enumerate(values):
                await mq.send(topic, value, headers={"number": str(number)}, partition=0)
            async with mq.consumer(topic, group=group) as consumer:
                for _ in values:
                    (record,) = await consumer.pull(1)
                    await record.reject("no such customer")
            with trio.fail_after(10):
                while not await rest(mq, group, len(values)):  # noqa: ASYNC110  # it is seen from outside
                    await trio.sleep(0.05)

    trio.run(reject)


def test_dead_letters_are_listed_shown_sent_on_and_purged(shell: Shell) -> None:
    bury(shell, "dead", "burying", "one", "two", "three")
    assert [one for one in objects(shell("dlq", "list", "--json")) if one["group"] == "burying"] == [
        {"group": "burying", "topic": "dlq.burying", "count": 3}
    ]
    assert "burying" in shell("dlq", "list")
    listed = objects(shell("dlq", "list", "burying", "--json"))
    assert [one["value"] for one in listed] == ["one", "two", "three"]
    first = listed[0]
    assert first["origin"] == {**first["origin"], "topic": "dead", "partition": 0, "offset": 0}
    assert (first["attempts"], first["reason"]) == (1, "no such customer")
    assert "no such customer" in shell("dlq", "list", "burying")
    shown = shell("dlq", "show", "burying", first["id"])
    assert "from: dead-0 offset 0" in shown
    assert "value: one" in shown
    [two] = objects(shell("dlq", "list", "burying", "--filter", "number = 1", "--json"))
    assert two["value"] == "two"
    shell("dlq", "redrive", "burying", "--filter", "number = 1", "--to", "origin")
    assert shell("consume", "dead", "--from", "earliest").split().count("two") == 2
    shell("dlq", "purge", "burying", first["id"], "--yes")
    shell("dlq", "redrive", "burying", "--all")
    assert objects(shell("dlq", "list", "burying", "--json")) == []
    assert shell("consume", "retry.burying", "--from", "earliest", "--max", "1").split() == ["three"]


def test_mistakes_are_one_line(shell: Shell) -> None:
    bury(shell, "dead", "mistaken", "x")
    for command, said, code in [
        (("dlq", "list", "nobody"), "no dead letters", 1),
        (("dlq", "show", "mistaken", "nonsense"), "no id", 2),
        (("dlq", "show", "mistaken", "0-99"), "no dead letter", 1),
        (("dlq", "redrive", "mistaken"), "say which", 2),
        (("dlq", "redrive", "mistaken", "--all", "--filter", "x"), "say which", 2),
        (("dlq", "redrive", "mistaken", "--all", "--to", "moon"), "retry or origin", 2),
        (("dlq", "redrive", "mistaken", "--filter", "((("), "filter", 2),
        (("dlq", "redrive", "mistaken", "77-1"), "no dead letter", 1),
        (("dlq", "purge", "mistaken", "--all"), "--yes", 2),
        (("dlq", "list", "--filter", "x"), "GROUP", 2),
    ]:
        assert said in shell.fails(*command, code=code)
