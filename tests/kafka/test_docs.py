"""What the documents say about Kafka's clients holds: commands and programs run, the table of APIs is up to date."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "127.0.0.1:6086"
TIMEOUT_S = 60


def blocks(page, language, section):
    """The blocks of one language below a heading."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", found, re.DOTALL)


def run(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_table_of_apis_is_up_to_date():
    """docs/kafka.md says what the code speaks."""
    run([sys.executable, str(ROOT / "scripts" / "kafka_table.py"), "--check"], cwd=ROOT)


def test_the_readmes_commands_run(node, kcat):
    """In order, against a node."""
    environment = {**os.environ, "PATH": f"{Path(kcat).parent}:{os.environ['PATH']}", "DDUOMQ_SERVER": node.address}
    function = f'dduomq() {{ "{sys.executable}" -m dduomq.cli.app "$@"; }}\n'
    (commands,) = blocks("README.md", "bash", "With Kafka's clients")
    script = function + commands.replace(ADDRESS, node.address)
    shown = run(["bash", "-euo", "pipefail", "-c", script], env=environment, cwd=ROOT)
    assert "anna bought 2 apples" in shown
    assert 'topic "fruit"' in shown


def test_the_programs_run(node):
    """Those of docs/kafka.md, one after the other."""
    programs = blocks("docs/kafka.md", "python", "Clients")
    assert len(programs) == 3
    for program in programs:
        assert run([sys.executable, "-c", program.replace(ADDRESS, node.address)], cwd=ROOT)


def test_the_share_consumers_program_runs(node):
    """That of docs/queues.md."""
    node.create("pictures")
    (program,) = blocks("docs/queues.md", "python", "Kafka's share consumers")
    run([sys.executable, "-c", program.replace(ADDRESS, node.address)], cwd=ROOT)
