"""The broker itself: its versions, its nodes, its coordinators, its disks."""

from dduomq.wire.kafka.api import api

API_VERSIONS = api(
    18, "ApiVersions", "0-4", flexible=3,
    request="""
        client_software_name string 3+
        client_software_version string 3+
    """,
    response="""
        error_code int16 0+
        api_keys [] 0+
            api_key int16 0+
            min_version int16 0+
            max_version int16 0+
        throttle_time_ms int32 1+
        supported_features [] 3+ tag=0
            name string 3+
            min_version int16 3+
            max_version int16 3+
        finalized_features_epoch int64 3+ tag=1 default=-1
        finalized_features [] 3+ tag=2
            name string 3+
            max_version_level int16 3+
            min_version_level int16 3+
        zk_migration_ready boolean 3+ tag=3
    """,
)  # fmt: skip

FIND_COORDINATOR = api(
    10, "FindCoordinator", "0-6", flexible=3,
    request="""
        key string 0-3
        key_type int8 1+
        coordinator_keys [string] 4+
    """,
    response="""
        throttle_time_ms int32 1+
        error_code int16 0-3
        error_message string 1-3 nullable=1-3
        node_id int32 0-3
        host string 0-3
        port int32 0-3
        coordinators [] 4+
            key string 4+
            node_id int32 4+
            host string 4+
            port int32 4+
            error_code int16 4+
            error_message string 4+ nullable=4+
    """,
)  # fmt: skip

DESCRIBE_CLUSTER = api(
    60, "DescribeCluster", "0-2", flexible=0,
    request="""
        include_cluster_authorized_operations boolean 0+
        endpoint_type int8 1+ default=1
        include_fenced_brokers boolean 2+
    """,
    response="""
        throttle_time_ms int32 0+
        error_code int16 0+
        error_message string 0+ nullable=0+ default=null
        endpoint_type int8 1+ default=1
        cluster_id string 0+
        controller_id int32 0+ default=-1
        brokers [] 0+
            broker_id int32 0+
            host string 0+
            port int32 0+
            rack string 0+ nullable=0+ default=null
            is_fenced boolean 2+
        cluster_authorized_operations int32 0+ default=-2147483648
    """,
)  # fmt: skip

DESCRIBE_LOG_DIRS = api(
    35, "DescribeLogDirs", "1-5", flexible=2,
    request="""
        topics [] 0+ nullable=0+
            topic string 0+
            partitions [int32] 0+
    """,
    response="""
        throttle_time_ms int32 0+
        error_code int16 3+
        results [] 0+
            error_code int16 0+
            log_dir string 0+
            topics [] 0+
                name string 0+
                partitions [] 0+
                    partition_index int32 0+
                    partition_size int64 0+
                    offset_lag int64 0+
                    is_future_key boolean 0+
            total_bytes int64 4+ default=-1
            usable_bytes int64 4+ default=-1
            is_cordoned boolean 5+
    """,
)  # fmt: skip

TABLES = (API_VERSIONS, FIND_COORDINATOR, DESCRIBE_CLUSTER, DESCRIBE_LOG_DIRS)
