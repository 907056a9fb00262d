"""`dduomq delay`: what people and scripts get from it, against a real node."""

import json

import pytest

from tests.cli.shell import Shell, objects


def send(shell: Shell, topic: str, *options: str) -> None:
    shell("produce", topic, *options, stdin="one\ntwo\n")


def test_what_waits_is_listed_and_taken_back(shell: Shell) -> None:
    send(shell, "waiting", "--delay", "2h")
    listed = objects(shell("delay", "list", "waiting", "--json"))
    assert [one["topic"] for one in listed] == ["waiting", "waiting"]
    first, second = (one["delay_id"] for one in listed)
    assert first in shell("delay", "list")
    shell("delay", "cancel", first)
    assert [one["delay_id"] for one in objects(shell("delay", "list", "waiting", "--json"))] == [second]
    renamed = shell("delay", "reschedule", second, "--at", "2099-01-01T00:00:00Z").strip()
    [again] = objects(shell("delay", "list", "waiting", "--json"))
    assert again["delay_id"] == renamed
    assert again["due_ms"] == 4_070_908_800_000
    shell("delay", "reschedule", renamed, "--in", "0")
    assert shell("consume", "waiting", "--max", "1", "--from", "earliest").split() in (["one"], ["two"])


def test_mistakes_are_one_line(shell: Shell) -> None:
    for command, said, code in [
        (("delay", "cancel", "5-5-5"), "waits", 1),
        (("delay", "cancel", "nonsense"), "no id", 1),
        (("delay", "reschedule", "1-2-3"), "say when", 2),
        (("delay", "reschedule", "1-2-3", "--in", "soon"), "can't be", 2),
        (("produce", "x", "--delay=-5"), "can't be", 2),
        (("produce", "x", "--delay", "5", "--at", "2099-01-01T00:00:00Z"), "not both", 2),
    ]:
        assert said in shell.fails(*command, stdin="a\n", code=code)


@pytest.mark.parametrize("wish", [("--delay", "10ms"), ("--at", "2001-01-01T00:00:00Z")])
def test_lines_come_later(shell: Shell, wish: tuple[str, str]) -> None:
    topic = f"later{wish[0]}"
    send(shell, topic, *wish)
    [first, _] = objects(shell("consume", topic, "--max", "2", "--from", "earliest", "--json"))
    assert "dduomq-delayed-until" in json.dumps(first)
