"""Every API that is spoken here, by its key."""

from collections.abc import Mapping

from dduomq.wire.kafka.api import Api
from dduomq.wire.kafka.tables import cluster, consumer_groups, data, groups, replicas, share, topics

APIS: Mapping[int, Api] = {
    api.key: api
    for api in sorted(
        (
            *data.TABLES,
            *topics.TABLES,
            *groups.TABLES,
            *consumer_groups.TABLES,
            *share.TABLES,
            *cluster.TABLES,
            *replicas.TABLES,
        ),
        key=lambda api: api.key,
    )
}
