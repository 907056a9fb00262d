"""What a reader may count on in every file: short, explained, and without the things that hide faults."""

import ast
import re

from house_source import PACKAGE, Module, functions, imports, modules

LINE_MAX = 120
FUNCTION_MAX = 70
FILE_MAX = 500
# Files and functions longer than that, with the length they may not grow past. Only ever make these smaller.
FILE_RATCHET: dict[str, int] = {
    "dduomq.actors.partition": 800,
    "dduomq.log.plog": 600,
}
FUNCTION_RATCHET: dict[str, int] = {}

PRINTERS = {"cli", "dump", "dumping", "run"}  # rooms whose work is to write to standard output
BANNED_WORDS = re.compile(r"\b(TODO|FIXME|XXX)\b")
# Started by name from outside: console scripts and `trio-run`.
ENTRY_POINTS = {"dduomq.run", "dduomq.dump", "dduomq.cli.app", "dduomq.node"}


def _places(module: Module, kind: type[ast.AST]) -> list[ast.AST]:
    return [node for node in ast.walk(module.tree) if isinstance(node, kind)]


def _report(wrong: list[str]) -> None:
    assert not wrong, "\n".join(wrong)


def test_every_module_says_what_it_is() -> None:
    """Each file opens with a docstring."""
    _report([str(module) for module in modules() if not ast.get_docstring(module.tree)])


def test_lines_are_not_too_long() -> None:
    """A line fits beside another file on the screen."""
    _report([
        f"{module}:{number}: {len(line)} characters"
        for module in modules()
        for number, line in enumerate(module.text.splitlines(), 1)
        if len(line) > LINE_MAX
    ])  # fmt: skip


def test_files_are_not_too_long() -> None:
    """One noun per file; those in the ratchet may shrink, never grow."""
    lengths = {module.name: module.text.count("\n") for module in modules()}
    _report([f"{n}: {size} lines" for n, size in lengths.items() if size > FILE_RATCHET.get(n, FILE_MAX)])
    _report([f"{n}: no longer needs its line in FILE_RATCHET" for n in FILE_RATCHET if lengths.get(n, 0) <= FILE_MAX])


def test_functions_are_not_too_long() -> None:
    """A function can be read without scrolling; those in the ratchet may shrink, never grow."""
    lengths = {
        f"{module.name}.{name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for module in modules()
        for name, node in functions(module)
    }
    _report([f"{n}: {size} lines" for n, size in lengths.items() if size > FUNCTION_RATCHET.get(n, FUNCTION_MAX)])
    _report([f"{n}: not needed" for n in FUNCTION_RATCHET if lengths.get(n, 0) <= FUNCTION_MAX])


def test_nothing_is_left_for_later() -> None:
    """No note to do something later stands in the code."""
    _report([
        f"{module}:{number}"
        for module in modules()
        for number, line in enumerate(module.text.splitlines(), 1)
        if BANNED_WORDS.search(line)
    ])  # fmt: skip


def test_no_fault_is_swallowed() -> None:
    """No bare `except:`, and no `except Exception` that does nothing."""
    wrong = []
    for module in modules():
        for node in _places(module, ast.ExceptHandler):
            assert isinstance(node, ast.ExceptHandler)
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            broad = node.type is not None and ast.unparse(node.type) in {"Exception", "BaseException"}
            if node.type is None or (silent and broad):
                wrong.append(f"{module}:{node.lineno}")
    _report(wrong)


def test_nothing_prints_but_the_command_line() -> None:
    """Libraries return or log; `print` belongs to the commands."""
    _report([
        f"{module}:{node.lineno}"
        for module in modules()
        if module.room not in PRINTERS
        for node in _places(module, ast.Call)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ])  # fmt: skip


def test_nothing_is_unbounded() -> None:
    """`math.inf` is no bound; numbers stand in limits.py."""
    _report([
        f"{module}:{node.lineno}"
        for module in modules()
        for node in _places(module, ast.Attribute)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "math.inf"
    ])  # fmt: skip


def test_no_file_is_dead() -> None:
    """Each module is imported by another one, or started by name."""
    wanted = {found.module for module in modules() for found in imports(module)}
    lazily_named = set(re.findall(r'"(dduomq\.[a-z_.]+)"', (PACKAGE / "__init__.py").read_text(encoding="utf-8")))
    wanted |= lazily_named | ENTRY_POINTS
    _report([
        str(module)
        for module in modules()
        if not module.is_package and module.room != "testing" and module.name not in wanted
    ])  # fmt: skip
