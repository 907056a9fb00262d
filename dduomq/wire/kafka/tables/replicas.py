"""Who leads and who keeps partitions: elections (KIP-460) and reassignments (KIP-455)."""

from dduomq.wire.kafka.api import api

ELECT_LEADERS = api(
    43, "ElectLeaders", "0-2", flexible=2,
    request="""
        election_type int8 1+
        topic_partitions [] 0+ nullable=0+
            topic string 0+
            partitions [int32] 0+
        timeout_ms int32 0+ default=60000
    """,
    response="""
        throttle_time_ms int32 0+
        error_code int16 1+
        replica_election_results [] 0+
            topic string 0+
            partition_result [] 0+
                partition_id int32 0+
                error_code int16 0+
                error_message string 0+ nullable=0+
    """,
)  # fmt: skip

ALTER_PARTITION_REASSIGNMENTS = api(
    45, "AlterPartitionReassignments", "0-1", flexible=0,
    request="""
        timeout_ms int32 0+ default=60000
        allow_replication_factor_change boolean 1+ default=true
        topics [] 0+
            name string 0+
            partitions [] 0+
                partition_index int32 0+
                replicas [int32] 0+ nullable=0+ default=null
    """,
    response="""
        throttle_time_ms int32 0+
        allow_replication_factor_change boolean 1+ default=true
        error_code int16 0+
        error_message string 0+ nullable=0+
        responses [] 0+
            name string 0+
            partitions [] 0+
                partition_index int32 0+
                error_code int16 0+
                error_message string 0+ nullable=0+
    """,
)  # fmt: skip

LIST_PARTITION_REASSIGNMENTS = api(
    46, "ListPartitionReassignments", "0-0", flexible=0,
    request="""
        timeout_ms int32 0+ default=60000
        topics [] 0+ nullable=0+ default=null
            name string 0+
            partition_indexes [int32] 0+
    """,
    response="""
        throttle_time_ms int32 0+
        error_code int16 0+
        error_message string 0+ nullable=0+
        topics [] 0+
            name string 0+
            partitions [] 0+
                partition_index int32 0+
                replicas [int32] 0+
                adding_replicas [int32] 0+
                removing_replicas [int32] 0+
    """,
)  # fmt: skip

TABLES = (ELECT_LEADERS, ALTER_PARTITION_REASSIGNMENTS, LIST_PARTITION_REASSIGNMENTS)
