"""Every error has a number of its own, so that it survives the wire."""

import ast
import subprocess
import sys

from house_source import modules

from dduomq.errors import DduomqError, UnknownServerError, from_code

# Bytes that make no sense and a request that makes none look alike from outside: Kafka has one number.
SHARED = {frozenset({"WireError", "InvalidRequest"})}


def _error_classes() -> dict[str, ast.ClassDef]:
    """Every class that descends from DduomqError, found by name in the whole package."""
    classes = {
        node.name: node for module in modules() for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)
    }
    errors = {"DduomqError"}
    while True:
        more = {
            name
            for name, node in classes.items()
            if name not in errors and any(ast.unparse(base).split(".")[-1] in errors for base in node.bases)
        }
        if not more:
            return {name: classes[name] for name in errors if name != "DduomqError"}
        errors |= more


def _code(node: ast.ClassDef) -> int | None:
    for statement in node.body:
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
        value = getattr(statement, "value", None)
        if any(isinstance(t, ast.Name) and t.id == "code" for t in targets) and value is not None:
            return int(ast.literal_eval(value))
    return None


def test_every_error_has_a_code_of_its_own() -> None:
    """No two errors share a number, but for the pair that Kafka does not tell apart."""
    holders: dict[int, set[str]] = {}
    for name, node in _error_classes().items():
        code = _code(node)
        if code is None:
            assert name == "UnknownServerError", f"{name} has no code"
        else:
            holders.setdefault(code, set()).add(name)
    shared = {code: names for code, names in holders.items() if len(names) > 1 and names not in SHARED}
    assert not shared


def test_every_error_explains_itself() -> None:
    """Each error class has a docstring: it is the text a user sees when no other is given."""
    assert [name for name, node in _error_classes().items() if not ast.get_docstring(node)] == []


def test_codes_turn_back_into_errors() -> None:
    """A number that travelled becomes the class it came from; an unknown one says so."""
    for cls in DduomqError.__subclasses__():
        if cls.code > 0 and cls.__module__ == "dduomq.errors" and cls.__name__ != "WireError":
            assert type(from_code(cls.code, "why")) is cls
    assert isinstance(from_code(31_337), UnknownServerError)


# What no native client is ever told: words of Kafka's protocol alone, and between nodes.
NOT_FOR_CLIENTS = {
    "InvalidShareSessionEpoch", "NotAReplica", "ShareSessionNotFound", "TooManyShareSessions", "UnknownTopicId",
}  # fmt: skip


def _may_be_tried_again(name: str, classes: dict[str, ast.ClassDef]) -> bool:
    """Its own word on that, or that of the nearest class it descends from."""
    node = classes.get(name)
    if node is None:
        return False
    for statement in node.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "retriable":
            return bool(ast.literal_eval(statement.value))
    return any(_may_be_tried_again(ast.unparse(base).split(".")[-1], classes) for base in node.bases)


def test_clients_know_all_errors_after_which_they_are_to_try_again() -> None:
    """A client has imported no part of the broker: a number it does not know is the end of its patience."""
    classes = _error_classes()
    codes = {_code(node) for name, node in classes.items() if _may_be_tried_again(name, classes)}
    codes -= {_code(classes[name]) for name in NOT_FOR_CLIENTS}
    text = (
        "import dduomq.client.client; from dduomq.errors import from_code; "
        f"print([code for code in {sorted(code for code in codes if code)} if not from_code(code).retriable])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
