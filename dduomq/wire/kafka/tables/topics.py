"""Topics: what there is, and making, growing, configuring and deleting it."""

from dduomq.wire.kafka.api import api

METADATA = api(
    3, "Metadata", "0-13", flexible=9,
    request="""
        topics [] 0+ nullable=1+
            topic_id uuid 10+
            name string 0+ nullable=10+
        allow_auto_topic_creation boolean 4+ default=true
        include_cluster_authorized_operations boolean 8-10
        include_topic_authorized_operations boolean 8+
    """,
    response="""
        throttle_time_ms int32 3+
        brokers [] 0+
            node_id int32 0+
            host string 0+
            port int32 0+
            rack string 1+ nullable=1+ default=null
        cluster_id string 2+ nullable=2+ default=null
        controller_id int32 1+ default=-1
        topics [] 0+
            error_code int16 0+
            name string 0+ nullable=12+
            topic_id uuid 10+
            is_internal boolean 1+
            partitions [] 0+
                error_code int16 0+
                partition_index int32 0+
                leader_id int32 0+
                leader_epoch int32 7+ default=-1
                replica_nodes [int32] 0+
                isr_nodes [int32] 0+
                offline_replicas [int32] 5+
            topic_authorized_operations int32 8+ default=-2147483648
        cluster_authorized_operations int32 8-10 default=-2147483648
        error_code int16 13+
    """,
)  # fmt: skip

CREATE_TOPICS = api(
    19, "CreateTopics", "2-7", flexible=5,
    request="""
        topics [] 0+
            name string 0+
            num_partitions int32 0+
            replication_factor int16 0+
            assignments [] 0+
                partition_index int32 0+
                broker_ids [int32] 0+
            configs [] 0+
                name string 0+
                value string 0+ nullable=0+
        timeout_ms int32 0+ default=60000
        validate_only boolean 1+
    """,
    response="""
        throttle_time_ms int32 2+
        topics [] 0+
            name string 0+
            topic_id uuid 7+
            error_code int16 0+
            error_message string 1+ nullable=0+
            topic_config_error_code int16 5+ tag=0
            num_partitions int32 5+ default=-1
            replication_factor int16 5+ default=-1
            configs [] 5+ nullable=5+
                name string 5+
                value string 5+ nullable=5+
                read_only boolean 5+
                config_source int8 5+ default=-1
                is_sensitive boolean 5+
    """,
)  # fmt: skip

DELETE_TOPICS = api(
    20, "DeleteTopics", "1-6", flexible=4,
    request="""
        topics [] 6+
            name string 6+ nullable=6+ default=null
            topic_id uuid 6+
        topic_names [string] 0-5
        timeout_ms int32 0+
    """,
    response="""
        throttle_time_ms int32 1+
        responses [] 0+
            name string 0+ nullable=6+
            topic_id uuid 6+
            error_code int16 0+
            error_message string 5+ nullable=5+ default=null
    """,
)  # fmt: skip

CREATE_PARTITIONS = api(
    37, "CreatePartitions", "0-3", flexible=2,
    request="""
        topics [] 0+
            name string 0+
            count int32 0+
            assignments [] 0+ nullable=0+
                broker_ids [int32] 0+
        timeout_ms int32 0+
        validate_only boolean 0+
    """,
    response="""
        throttle_time_ms int32 0+
        results [] 0+
            name string 0+
            error_code int16 0+
            error_message string 0+ nullable=0+ default=null
    """,
)  # fmt: skip

DESCRIBE_TOPIC_PARTITIONS = api(
    75, "DescribeTopicPartitions", "0-0", flexible=0,
    request="""
        topics [] 0+
            name string 0+
        response_partition_limit int32 0+ default=2000
        cursor {} 0+ nullable=0+ default=null
            topic_name string 0+
            partition_index int32 0+
    """,
    response="""
        throttle_time_ms int32 0+
        topics [] 0+
            error_code int16 0+
            name string 0+ nullable=0+
            topic_id uuid 0+
            is_internal boolean 0+
            partitions [] 0+
                error_code int16 0+
                partition_index int32 0+
                leader_id int32 0+
                leader_epoch int32 0+ default=-1
                replica_nodes [int32] 0+
                isr_nodes [int32] 0+
                eligible_leader_replicas [int32] 0+ nullable=0+ default=null
                last_known_elr [int32] 0+ nullable=0+ default=null
                offline_replicas [int32] 0+
            topic_authorized_operations int32 0+ default=-2147483648
        next_cursor {} 0+ nullable=0+ default=null
            topic_name string 0+
            partition_index int32 0+
    """,
)  # fmt: skip

DESCRIBE_CONFIGS = api(
    32, "DescribeConfigs", "1-4", flexible=4,
    request="""
        resources [] 0+
            resource_type int8 0+
            resource_name string 0+
            configuration_keys [string] 0+ nullable=0+
        include_synonyms boolean 1+
        include_documentation boolean 3+
    """,
    response="""
        throttle_time_ms int32 0+
        results [] 0+
            error_code int16 0+
            error_message string 0+ nullable=0+
            resource_type int8 0+
            resource_name string 0+
            configs [] 0+
                name string 0+
                value string 0+ nullable=0+
                read_only boolean 0+
                config_source int8 1+ default=-1
                is_sensitive boolean 0+
                synonyms [] 1+
                    name string 1+
                    value string 1+ nullable=0+
                    source int8 1+
                config_type int8 3+
                documentation string 3+ nullable=0+
    """,
)  # fmt: skip

ALTER_CONFIGS = api(
    33, "AlterConfigs", "0-2", flexible=2,
    request="""
        resources [] 0+
            resource_type int8 0+
            resource_name string 0+
            configs [] 0+
                name string 0+
                value string 0+ nullable=0+
        validate_only boolean 0+
    """,
    response="""
        throttle_time_ms int32 0+
        responses [] 0+
            error_code int16 0+
            error_message string 0+ nullable=0+
            resource_type int8 0+
            resource_name string 0+
    """,
)  # fmt: skip

INCREMENTAL_ALTER_CONFIGS = api(
    44, "IncrementalAlterConfigs", "0-1", flexible=1,
    request="""
        resources [] 0+
            resource_type int8 0+
            resource_name string 0+
            configs [] 0+
                name string 0+
                config_operation int8 0+
                value string 0+ nullable=0+
        validate_only boolean 0+
    """,
    response="""
        throttle_time_ms int32 0+
        responses [] 0+
            error_code int16 0+
            error_message string 0+ nullable=0+
            resource_type int8 0+
            resource_name string 0+
    """,
)  # fmt: skip

TABLES = (
    METADATA, CREATE_TOPICS, DELETE_TOPICS, CREATE_PARTITIONS, DESCRIBE_TOPIC_PARTITIONS, DESCRIBE_CONFIGS,
    ALTER_CONFIGS, INCREMENTAL_ALTER_CONFIGS,
)  # fmt: skip
