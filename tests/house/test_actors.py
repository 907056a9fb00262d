"""Each actor file opens with a table of its messages; here the table is held against the code."""

import ast
import re
from functools import cache

import attrs
from house_source import Module, modules

COLUMNS = ["message", "from", "answer", "may wait on", "effect"]
NOT_AN_ACTOR = {"actor", "supervisor", "nursery", "disk_pool"}  # the kernel itself, and helpers without a mailbox


@attrs.frozen
class Row:
    message: str
    senders: tuple[str, ...]
    answer: str
    waits_on: tuple[str, ...]
    effect: str


def _actor_modules() -> list[Module]:
    """Files of `actors/` that define a subclass of Actor."""
    return [module for module in modules() if module.room == "actors" and _actor_classes(module)]


def _actor_classes(module: Module) -> list[ast.ClassDef]:
    return [
        node
        for node in module.tree.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Actor") for base in node.bases)
    ]


def _names(cell: str) -> tuple[str, ...]:
    return tuple(name for name in re.split(r"[,\s]+", cell) if name not in {"", "nothing", "–"})


def _table(module: Module) -> list[Row]:
    lines = (ast.get_docstring(module.tree) or "").splitlines()
    table = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line.startswith("|")]
    assert table, f"{module}: the docstring has no message table"
    assert table[0] == COLUMNS, f"{module}: the table's columns are {table[0]}"
    rows = []
    for cells in table[2:]:
        assert len(cells) == len(COLUMNS), f"{module}: {cells}"
        rows.append(Row(cells[0], _names(cells[1]), cells[2], _names(cells[3]), cells[4]))
    return rows


def _handlers(node: ast.ClassDef) -> dict[str, str]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "HANDLERS":
            assert isinstance(statement.value, ast.Dict)
            keys = [ast.unparse(key) for key in statement.value.keys if key is not None]
            return dict(zip(keys, (ast.literal_eval(value) for value in statement.value.values), strict=True))
    raise AssertionError(f"{node.name} has no HANDLERS")


@cache
def _ranks() -> dict[str, int]:
    """The one ranking against waiting in a circle, as it stands in the code."""
    for module in modules():
        if module.name == "dduomq.actors.supervisor":
            for statement in module.tree.body:
                if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "RANKS":
                    return dict(ast.literal_eval(statement.value))
    raise AssertionError("actors/supervisor.py has no RANKS")


def _rank(name: str) -> int:
    return _ranks()[name if name in _ranks() else name.rstrip("s")]


def test_tables_match_the_handlers() -> None:
    """Each message in the table has a handler and each handler stands in the table, in the same order."""
    assert _actor_modules()
    for module in _actor_modules():
        handled = [message for node in _actor_classes(module) for message in _handlers(node)]
        assert [row.message for row in _table(module)] == handled, str(module)


def test_handlers_exist_and_cannot_wait() -> None:
    """A handler is a plain method of its actor: an actor waits for nothing but its mailbox."""
    for module in _actor_modules():
        for node in _actor_classes(module):
            methods = {
                item.name: item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            for message, name in _handlers(node).items():
                assert name in methods, f"{module}: {message} -> {name}"


def test_messages_are_frozen() -> None:
    """Every message is `@attrs.frozen(kw_only=True)`: nothing mutable travels by accident."""
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and "Message" in [ast.unparse(base) for base in node.bases]:
                if module.room != "actors":
                    continue
                decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
                assert "attrs.frozen(kw_only=True)" in decorators, f"{module}: {node.name}"


def test_nobody_waits_in_a_circle() -> None:
    """What a handler may wait on ranks below its own actor, so that no ring of waiting actors can close."""
    for module in _actor_modules():
        own = _rank(module.path.stem)
        for row in _table(module):
            for other in row.waits_on:
                assert _rank(other) > own, f"{module}: {row.message} waits on {other}"


def test_puts_go_only_down_the_ranking() -> None:
    """No actor's own code awaits a mailbox: inside actors only `offer` and `post` are used."""
    for module in _actor_modules():
        for node in _actor_classes(module):
            awaited = [ast.unparse(item.value) for item in ast.walk(node) if isinstance(item, ast.Await)]
            assert not [call for call in awaited if ".put(" in call or call.startswith("ask(")], str(module)
