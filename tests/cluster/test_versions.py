"""The cluster's version: never down, and never one that a node does not speak."""

import pytest

from dduomq.cluster.image import NodeRecord
from dduomq.cluster.versions import ClusterVersionRefused, check, raised


def node(number, lowest, highest):
    return NodeRecord(number, f"d{number}", (), "", lowest, highest)


@pytest.mark.parametrize(
    ("version", "ranges", "wanted"),
    [
        (0, [(1, 1), (1, 1)], 1),
        (1, [(1, 2), (1, 1), (1, 2)], 1),
        (1, [(1, 2), (1, 2), (1, 2)], 2),
        (1, [(1, 3), (2, 4)], 3),
        (2, [(1, 1), (1, 2)], 2),
        (2, [], 2),
    ],
)
def test_the_version_is_raised_when_all_speak_it_and_never_lowered(version, ranges, wanted):
    nodes = [node(number, *spoken) for number, spoken in enumerate(ranges)]
    assert raised(version, nodes) == wanted


def test_a_node_that_does_not_speak_it_is_told_what_to_install():
    check(2, 1, 2)
    check(1, 1, 2)
    with pytest.raises(ClusterVersionRefused, match="install the one that the other nodes have"):
        check(3, 1, 2)
    with pytest.raises(ClusterVersionRefused, match="release between the two first"):
        check(1, 2, 3)
