"""One node for all tests of a file; each uses topics of its own."""

from collections.abc import Iterator

import pytest

from tests.cli.shell import Shell
from tests.e2e.processes import running


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with running(tmp_path_factory.mktemp("node")) as node:
        yield Shell(node.address)
