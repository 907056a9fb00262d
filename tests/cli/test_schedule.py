"""`dduomq schedule`: what people and scripts get from it, against a real node."""

from tests.cli.shell import Shell, objects


def test_a_schedule_from_beginning_to_end(shell: Shell) -> None:
    shell("schedule", "add", "beat", "beats", "tick", "--every", "100ms", "--key", "k", "-H", "a=b")
    [first, second] = objects(shell("consume", "beats", "--max", "2", "--from", "earliest", "--json"))
    assert first["value"] == second["value"] == "tick"
    assert {"name": "dduomq-schedule", "value": "beat"} in first["headers"]  # type: ignore[operator]
    shell("schedule", "pause", "beat")
    [listed] = [one for one in objects(shell("schedule", "list", "--json")) if one["name"] == "beat"]
    assert (listed["next"], listed["rule"], listed["missed"]) == ("paused", "every 100ms", "once")
    shell("schedule", "resume", "beat")
    shown = shell("schedule", "list")
    assert "beat" in shown
    assert "beats-" in shown
    shell("schedule", "delete", "beat")
    assert not [one for one in objects(shell("schedule", "list", "--json")) if one["name"] == "beat"]


def test_by_cron(shell: Shell) -> None:
    shell("schedule", "add", "yearly", "years", "happy new year", "--cron", "0 0 1 1 *", "--timezone", "Asia/Tokyo")
    [listed] = [one for one in objects(shell("schedule", "list", "--json")) if one["name"] == "yearly"]
    assert listed["next_ms"] % 86_400_000 == 15 * 3_600_000  # type: ignore[operator]
    shell("schedule", "add", "yearly", "years", "again", "--every", "7d", "--replace")
    shell("schedule", "delete", "yearly")


def test_mistakes_are_one_line(shell: Shell) -> None:
    for command, said, code in [
        (("add", "x", "t", "v"), "say when", 2),
        (("add", "x", "t", "v", "--cron", "61 * * * *"), "bad minute", 2),
        (("add", "x", "t", "v", "--every", "soon"), "can't be", 2),
        (("add", "x", "t", "v", "--every", "5s", "--missed", "never"), "one of", 2),
        (("add", "x", "t", "v", "--cron", "0 0 * * *", "--timezone", "Mars"), "no time zone", 2),
        (("delete", "nobody"), "no schedule", 1),
        (("pause", "nobody"), "no schedule", 1),
    ]:
        assert said in shell.fails("schedule", *command, code=code)
