"""The package's source as syntax trees, parsed once; what the house tests ask of it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dduomq"


@attrs.frozen(eq=False)
class Module:
    """One file of the package. `name` is dotted: `dduomq.log.plog`; a package is named without `__init__`."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The folder or file right below the package: `log`, `node`; empty for the package itself."""
        return self.name.partition(".")[2].partition(".")[0]

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


@attrs.frozen
class Import:
    """`module` is what is imported, `line` where; `late` when it happens inside a function."""

    module: str
    line: int
    late: bool


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the package, sorted by path."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(Module(path, _dotted(path), text, ast.parse(text, str(path))))
    return tuple(found)


def imports(module: Module) -> Iterator[Import]:
    """What `module` imports at any depth, those for type checkers only left out."""
    yield from _imports(module.tree.body, late=False)


def _imports(body: list[ast.stmt], *, late: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, late)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield Import(_submodule(base, alias.name), node.lineno, late)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        else:
            inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                children = getattr(node, field, [])
                for child in children:
                    yield from _imports([child] if isinstance(child, ast.stmt) else child.body, late=inside)


def _submodule(base: str, name: str) -> str:
    """`from dduomq.log import files` means the module `dduomq.log.files`, where there is one."""
    path = ROOT.joinpath(*base.split("."))
    if (path / f"{name}.py").exists() or (path / name / "__init__.py").exists():
        return f"{base}.{name}"
    return base


def functions(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(qualified name, node) of every function and method."""
    yield from _functions(module.tree, "")


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)
