"""Who keeps a group: a node that is alone does."""

import pytest

from dduomq.errors import InvalidRequest
from dduomq.wire import native
from dduomq.wire.native_routes import GROUP, SCHEDULE, WHEEL, CoordinatorFound, FindCoordinator
from tests.client.test_consuming import serving


async def test_a_node_alone_coordinates_everything(autojump_clock):
    async with serving() as (_, mq):
        for kind in (GROUP, WHEEL, SCHEDULE):
            plain, _ = await mq._wire.ask(FindCoordinator(kind, "k"), 1_000)
            assert native.from_plain(CoordinatorFound, plain) == CoordinatorFound(1, "sim", 6086)
        with pytest.raises(InvalidRequest, match="kitchen"):
            await mq._wire.ask(FindCoordinator("kitchen", "k"), 1_000)
