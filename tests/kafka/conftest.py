"""What the tests with Kafka's clients share: a node, a topic for each test, kcat."""

import os
import re
import shutil
import subprocess

import pytest

from tests.kafka.nodes import serving

INSTALL_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """One node for all tests of a module; its topics rest in the page cache and have 2 partitions."""
    options = ("--set", "topic.durability=pagecache", "--set", "default.partitions=2")
    with serving(tmp_path_factory.mktemp("node") / "data", *options) as node:
        yield node


@pytest.fixture
def name(request):
    """A topic's name that no other test uses."""
    return re.sub(r"[^a-zA-Z0-9._-]+", "-", request.node.name).strip("-")[:200]


@pytest.fixture
def topic(node, name):
    """A topic of one partition, made by the native client."""
    return node.create(name)


@pytest.fixture(scope="session")
def kcat():
    """kcat's path; it is installed when it is missing and that can be done."""
    path = shutil.which("kcat") or shutil.which("kafkacat") or _install_kcat()
    if path is None:
        pytest.skip("kcat is not here and can't be installed; on Debian: apt install kcat")
    return path


def _install_kcat():
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    command = ["apt-get", "install", "--yes", "--no-install-recommends", "kcat"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=INSTALL_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    return shutil.which("kcat")
