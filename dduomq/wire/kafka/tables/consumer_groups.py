"""Consumer groups that the broker shares out for (KIP-848)."""

from dduomq.wire.kafka.api import api

CONSUMER_GROUP_HEARTBEAT = api(
    68, "ConsumerGroupHeartbeat", "0-1", flexible=0,
    request="""
        group_id string 0+
        member_id string 0+
        member_epoch int32 0+
        instance_id string 0+ nullable=0+ default=null
        rack_id string 0+ nullable=0+ default=null
        rebalance_timeout_ms int32 0+ default=-1
        subscribed_topic_names [string] 0+ nullable=0+ default=null
        subscribed_topic_regex string 1+ nullable=1+ default=null
        server_assignor string 0+ nullable=0+ default=null
        topic_partitions [] 0+ nullable=0+ default=null
            topic_id uuid 0+
            partitions [int32] 0+
    """,
    response="""
        throttle_time_ms int32 0+
        error_code int16 0+
        error_message string 0+ nullable=0+ default=null
        member_id string 0+ nullable=0+ default=null
        member_epoch int32 0+
        heartbeat_interval_ms int32 0+
        assignment {} 0+ nullable=0+ default=null
            topic_partitions [] 0+
                topic_id uuid 0+
                partitions [int32] 0+
    """,
)  # fmt: skip

CONSUMER_GROUP_DESCRIBE = api(
    69, "ConsumerGroupDescribe", "0-1", flexible=0,
    request="""
        group_ids [string] 0+
        include_authorized_operations boolean 0+
    """,
    response="""
        throttle_time_ms int32 0+
        groups [] 0+
            error_code int16 0+
            error_message string 0+ nullable=0+ default=null
            group_id string 0+
            group_state string 0+
            group_epoch int32 0+
            assignment_epoch int32 0+
            assignor_name string 0+
            members [] 0+
                member_id string 0+
                instance_id string 0+ nullable=0+ default=null
                rack_id string 0+ nullable=0+ default=null
                member_epoch int32 0+
                client_id string 0+
                client_host string 0+
                subscribed_topic_names [string] 0+
                subscribed_topic_regex string 0+ nullable=0+ default=null
                assignment {} 0+
                    topic_partitions [] 0+
                        topic_id uuid 0+
                        topic_name string 0+
                        partitions [int32] 0+
                target_assignment {} 0+
                    topic_partitions [] 0+
                        topic_id uuid 0+
                        topic_name string 0+
                        partitions [int32] 0+
                member_type int8 1+ default=-1
            authorized_operations int32 0+ default=-2147483648
    """,
)  # fmt: skip

TABLES = (CONSUMER_GROUP_HEARTBEAT, CONSUMER_GROUP_DESCRIBE)
