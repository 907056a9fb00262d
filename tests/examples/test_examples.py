"""Everything that is shown to users runs: the examples and the tour of README.md."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Node, running

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TIMEOUT_S = 60
COMMANDS = {"dduomq": "dduomq.cli.app", "dduomq-dump": "dduomq.dump", "trio-run": "dduomq.run"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def node(home: Path) -> Iterator[Node]:
    """One node, whose data lies where the tour expects it."""
    with running(home / "dduomq-data") as node:
        yield node


@pytest.fixture(scope="module")
def environment(home: Path, node: Node) -> dict[str, str]:
    """The commands on the PATH, the node in DDUOMQ_SERVER, warnings as errors."""
    commands = home / "bin"
    commands.mkdir()
    for name, module in COMMANDS.items():
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        script.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "DDUOMQ_SERVER": node.address,
    }


def run(command: list[str], home: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tour(language: str) -> list[str]:
    """The blocks of one language in README's tour."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## Five minutes", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path: Path, home: Path, environment: dict[str, str]) -> None:
    """The example ends well and shows something; a second time, too."""
    assert run([sys.executable, str(path)], home, environment)
    assert run([sys.executable, str(path)], home, environment)


def test_every_example_explains_itself() -> None:
    """Each opens with a sentence, and there are some."""
    assert EXAMPLES
    assert all(path.read_text(encoding="utf-8").startswith('"""') for path in EXAMPLES)


def test_tour_runs(home: Path, node: Node, environment: dict[str, str]) -> None:
    """The shell commands and the program of README's tour do what it says; the node is started here instead."""
    start, *blocks = tour("bash")
    assert "trio-run dduomq.node" in start
    for block in blocks:
        run(["bash", "-euo", "pipefail", "-c", block], home, environment)
    for program in tour("python"):
        run([sys.executable, "-c", program.replace("localhost:6086", node.address)], home, environment)


def test_links_lead_somewhere() -> None:
    """Every link of the documents to a file of the repository finds it."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    broken = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert not broken
