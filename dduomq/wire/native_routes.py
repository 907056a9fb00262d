"""The native protocol's words about who keeps what: frozen values, coded by `dduomq.wire.native`.

Leaders of partitions stand in the answer to `Metadata`; here is the rest. Always true: whoever is named may be it no
more when it is asked, and says so.
"""

import attrs

GROUP, WHEEL, SCHEDULE = "group", "wheel", "schedule"


@attrs.frozen
class FindCoordinator:
    """Who keeps the group, the delayed messages, or the schedule that `key` names? Any node answers."""

    kind: str
    key: str


@attrs.frozen
class CoordinatorFound:
    """`host`, `port`: where clients of this listener reach it; port 0 for a node without a listener."""

    node_id: int
    host: str
    port: int
