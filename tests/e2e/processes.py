"""Real node processes for tests: started on a free port, stopped by pid."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

STOP_TIMEOUT_S = 60


class Node:
    """A node process. `address` is where it listens."""

    def __init__(self, data_dir, *options, port=0):
        command = [sys.executable, "-m", "dduomq.run", "dduomq.node", "--id", "1", "--data", str(data_dir)]
        command += ["--listen", f"127.0.0.1:{port}", "--log-format", "json", *options]
        environment = {**os.environ, "PYTHONWARNINGS": "error"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.events = []
        for line in self.process.stderr:
            event = json.loads(line) if line.startswith("{") else {"event": line.strip()}
            self.events.append(event)
            if event["event"] == "node_ready":
                self.address = event["listen"][0]
                self.port = int(self.address.rpartition(":")[2])
                return
        raise AssertionError(f"the node did not start: {self.events} exit {self.process.wait()}")

    def kill(self):
        """SIGKILL: as if the machine's power went, but for the page cache."""
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def stop(self):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        self.process.stderr.read()
        code = self.process.wait(STOP_TIMEOUT_S)
        self.process.stderr.close()
        return code


@contextmanager
def running(data_dir, *options, port=0):
    node = Node(data_dir, *options, port=port)
    try:
        yield node
    finally:
        if node.process.poll() is None:
            node.stop()
