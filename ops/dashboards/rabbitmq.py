"""D3, RabbitMQ: its queues, its flow, its memory and disk."""

from dashboards.panels import RATE, Board, Limits, Row, Unit, lines, query, tile

_READY = "rabbitmq_detailed_queue_messages_ready"
_WORKED = 'queue!~"dead-letters|celery_delayed_.*"'
_NAMED = 'queue!~"celery_delayed_.*"'  # delays are 28 queues, one for each power of two of seconds

BOARD = Board(
    uid="fsfc-rabbitmq",
    number=3,
    title="RabbitMQ",
    description="What waits in which queue, who works it, how messages flow, and what the broker is short of.",
    rows=(
        Row(
            title="Now",
            panels=(
                tile(
                    "Ready",
                    f"sum({_READY}{{{_WORKED}}})",
                    unit=Unit.MESSAGES,
                    description="Messages that wait for a worker, without delayed ones and parked dead letters.",
                ),
                tile(
                    "Dead letters",
                    f'sum({_READY}{{queue="dead-letters"}}) or vector(0)',
                    unit=Unit.MESSAGES,
                    description="Could not be worked. ./stack dead-letters says why.",
                    limits=Limits(warning=1, critical=10),
                ),
                tile(
                    "Queues without consumers",
                    f"count(rabbitmq_detailed_queue_consumers{{{_WORKED}}} == 0) or vector(0)",
                    unit=Unit.NUMBER,
                    description="Nobody works them; their tasks wait until they expire.",
                    limits=Limits(warning=1, critical=1),
                ),
                tile(
                    "Alarms",
                    "max(rabbitmq_alarms_memory_used_watermark) + max(rabbitmq_alarms_free_disk_space_watermark) "
                    # RabbitMQ 4.3 has none of file descriptors: without a number, nor would the sum be one.
                    "+ (max(rabbitmq_alarms_file_descriptor_limit) or vector(0))",
                    unit=Unit.NUMBER,
                    description="Memory, disk, file descriptors (not 4.3). With one, RabbitMQ takes no messages.",
                    limits=Limits(warning=1, critical=1),
                ),
                tile(
                    "Connections",
                    "sum(rabbitmq_connections)",
                    unit=Unit.NUMBER,
                    description="One per API process, a few per worker, one for Flower.",
                ),
                tile(
                    "Up since",
                    "max(rabbitmq_erlang_uptime_seconds)",
                    unit=Unit.SECONDS,
                    description="Short means that it has been restarted.",
                ),
            ),
        ),
        Row(
            title="Queues",
            panels=(
                lines(
                    "Ready, by queue",
                    query("{{queue}}", f"sum by (queue) ({_READY}{{{_NAMED}}})"),
                    query("not due yet", f'sum({_READY}{{queue=~"celery_delayed_.*"}}) or vector(0)'),
                    unit=Unit.MESSAGES,
                    description="Waiting for a worker; dead-letters are parked.",
                ),
                lines(
                    "Held by workers, by queue",
                    query("{{queue}}", f"sum by (queue) (rabbitmq_detailed_queue_messages_unacked{{{_NAMED}}})"),
                    unit=Unit.MESSAGES,
                    description="Delivered and not acknowledged: running and prefetched tasks.",
                ),
                lines(
                    "Consumers, by queue",
                    query("{{queue}}", f"sum by (queue) (rabbitmq_detailed_queue_consumers{{{_NAMED}}})"),
                    unit=Unit.NUMBER,
                    description="Worker processes that take from it; 0 is right for dead-letters only.",
                ),
            ),
        ),
        Row(
            title="Flow",
            panels=(
                lines(
                    "Messages in",
                    query("received", f"sum(rate(rabbitmq_global_messages_received_total{RATE}))"),
                    query("routed", f"sum(rate(rabbitmq_global_messages_routed_total{RATE}))"),
                    query("confirmed", f"sum(rate(rabbitmq_global_messages_confirmed_total{RATE}))"),
                    unit=Unit.MESSAGES_PER_SECOND,
                    description="Tasks, and the workers' events and replies. Confirmed are the tasks.",
                ),
                lines(
                    "Messages out",
                    query("delivered", f"sum(rate(rabbitmq_global_messages_delivered_total{RATE}))"),
                    query("acknowledged", f"sum(rate(rabbitmq_global_messages_acknowledged_total{RATE}))"),
                    query("redelivered", f"sum(rate(rabbitmq_global_messages_redelivered_total{RATE}))"),
                    unit=Unit.MESSAGES_PER_SECOND,
                    description="Redelivered: a worker went before it had acknowledged.",
                ),
                lines(
                    "Not delivered",
                    query("returned", f"sum(rate(rabbitmq_global_messages_unroutable_returned_total{RATE}))"),
                    query("dropped", f"sum(rate(rabbitmq_global_messages_unroutable_dropped_total{RATE}))"),
                    query("expired", f"sum(rate(rabbitmq_global_messages_dead_lettered_expired_total{RATE}))"),
                    query("rejected", f"sum(rate(rabbitmq_global_messages_dead_lettered_rejected_total{RATE}))"),
                    query(
                        "too often",
                        f"sum(rate(rabbitmq_global_messages_dead_lettered_delivery_limit_total{RATE}))",
                    ),
                    unit=Unit.MESSAGES_PER_SECOND,
                    description="Tasks are sent so that they are returned when there is no queue; what is "
                    "dropped are "
                    "workers' events that nobody listens to.",
                ),
            ),
        ),
        Row(
            title="What it is short of",
            panels=(
                lines(
                    "Memory",
                    query("used", "sum(rabbitmq_process_resident_memory_bytes)"),
                    query("limit", "sum(rabbitmq_resident_memory_limit_bytes)"),
                    unit=Unit.BYTES,
                    description="At the limit it takes no messages.",
                ),
                lines(
                    "Free disk space",
                    query("free", "min(rabbitmq_disk_space_available_bytes)"),
                    query("limit", "max(rabbitmq_disk_space_available_limit_bytes)"),
                    unit=Unit.BYTES,
                    description="Below the limit it takes no messages.",
                ),
                lines(
                    "File descriptors",
                    query("open", "sum(rabbitmq_process_open_fds)"),
                    query("at most", "sum(rabbitmq_process_max_fds)"),
                    unit=Unit.NUMBER,
                    description="One per connection and open file.",
                ),
                lines(
                    "Connections and channels opened",
                    query("connections opened", f"sum(rate(rabbitmq_connections_opened_total{RATE}))"),
                    query("connections closed", f"sum(rate(rabbitmq_connections_closed_total{RATE}))"),
                    query("channels opened", f"sum(rate(rabbitmq_channels_opened_total{RATE}))"),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Near 0: everybody keeps a connection. Many per second: somebody connects per "
                    "message.",
                    width=12,
                ),
                lines(
                    "Disk operations",
                    query("writes", f"sum(rate(rabbitmq_io_write_ops_total{RATE}))"),
                    query("reads", f"sum(rate(rabbitmq_io_read_ops_total{RATE}))"),
                    query("syncs", f"sum(rate(rabbitmq_io_sync_ops_total{RATE}))"),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Of classic queues; quorum queues write a log of their own.",
                    width=12,
                ),
            ),
        ),
    ),
)
