"""What all tests share: how long an example takes proves nothing, on a machine that others use, too."""

from inspect import signature

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

CLOCKS = {"autojump_clock", "mock_clock"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test whose fixture has a virtual clock must ask for it itself.

    pytest-trio looks for one among its arguments alone; else all of it runs on the wall's clock, without a word.
    """
    wrong = [item.nodeid for item in items if isinstance(item, pytest.Function) and _is_on_the_wrong_clock(item)]
    if wrong:
        raise pytest.UsageError("name the clock among the arguments of: " + ", ".join(wrong))


def _is_on_the_wrong_clock(item: pytest.Function) -> bool:
    return bool(CLOCKS & set(item.fixturenames) - set(signature(item.function).parameters))
