"""A node process for Kafka's clients: its log is read along, so that the node never waits for its reader."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import trio

import dduomq
from tests.e2e.processes import Node

TIMEOUT_S = 60


class KafkaNode(Node):
    """A node. `events` grows while it lives."""

    def __init__(self, data, *options, port=0):
        super().__init__(data, *options, port=port)
        self.data = data
        self.ready = self.events[-1]
        self._reader = threading.Thread(target=self._read_along, daemon=True)
        self._reader.start()

    def _read_along(self):
        for line in self.process.stderr:
            self.events.append(json.loads(line) if line.startswith("{") else {"event": line.strip()})

    def end(self, *, kill=False):
        """SIGKILL, or SIGTERM and in order; nothing of it is left afterwards."""
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        try:
            self.process.wait(TIMEOUT_S)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(TIMEOUT_S)
            self.process.stderr.close()

    def closings(self, since=0):
        """Why connections were closed, as the log tells it from event number `since` on."""
        return [event["reason"] for event in self.events[since:] if event["event"] == "connection_closed"]

    # --- the native client ----------------------------------------------------------------------------

    def create(self, topic, partitions=1, **config):
        """A topic; `max_message_bytes` stands for max.message.bytes."""
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        self.native(lambda mq: mq.admin.create_topic(topic, partitions=partitions, config=settings))
        return topic

    def send(self, topic, *values, partition=0):
        """Records, as one batch."""
        self.native(lambda mq: mq.send_batch(topic, list(values), partition=partition))

    def read(self, topic, count, partition=0):
        """The first `count` records of a partition."""

        async def read(mq):
            found = []
            async with mq.reader(topic, partitions=[partition], start="earliest") as reader:
                while len(found) < count:
                    found += await reader.pull(max_records=count - len(found))
            return found

        return self.native(read)

    def native(self, work):
        """What `work(client)` gives."""

        async def connected():
            with trio.fail_after(TIMEOUT_S):
                async with dduomq.connect(self.address) as mq:
                    return await work(mq)

        return trio.run(connected)

    # --- the disk -------------------------------------------------------------------------------------

    def dump(self, *topics, partition=0):
        """What dduomq-dump shows of the topics' batches."""
        paths = [str(self.data / "topics" / f"{topic}-{partition}") for topic in topics]
        shown = subprocess.run(
            [sys.executable, "-m", "dduomq.dump", "--json", "--headers-only", *paths],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
        )  # fmt: skip
        rows = [json.loads(line) for line in shown.stdout.splitlines()]
        return [row for row in rows if row["type"] == "batch"]


@contextmanager
def serving(data, *options, port=0):
    """A node that is stopped in order at the end."""
    node = KafkaNode(data, *options, port=port)
    try:
        yield node
    finally:
        if node.process.poll() is None:
            node.end()


def eventually(happened):
    """Waits until `happened()`, and gives what it gave."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return found
