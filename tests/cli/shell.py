"""`dduomq …` as a user runs it."""

import json
import os
import subprocess
import sys

TIMEOUT_S = 60


class Shell:
    """Runs `dduomq …` as a user would, in a process of its own."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.environment = {**os.environ, "DDUOMQ_SERVER": server, "PYTHONWARNINGS": "error"}

    def __call__(self, *args: object, stdin: str | bytes = b"", code: int = 0) -> str:
        """Standard output; `code` is the exit code it must have."""
        done = self.run(*args, stdin=stdin)
        assert done.returncode == code, done.stderr.decode()
        return done.stdout.decode()

    def fails(self, *args: object, stdin: str | bytes = b"", code: int = 2) -> str:
        """The one line on standard error."""
        done = self.run(*args, stdin=stdin)
        assert done.returncode == code, done.stderr.decode()
        line = done.stderr.decode().splitlines()
        assert [text.startswith("dduomq: error: ") for text in line] == [True], line
        return line[0]

    def run(self, *args: object, stdin: str | bytes = b"") -> subprocess.CompletedProcess[bytes]:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        command = [sys.executable, "-m", "dduomq.cli.app", *(str(arg) for arg in args)]
        return subprocess.run(
            command, input=data, capture_output=True, env=self.environment, timeout=TIMEOUT_S, check=False
        )

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dduomq.cli.app", *args]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment
        )


def objects(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]
