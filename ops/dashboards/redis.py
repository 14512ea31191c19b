"""D5, Redis: the result backend's memory, commands and clients."""

from dashboards.panels import RATE, Board, Limits, Row, Unit, bars, lines, query, tile

BOARD = Board(
    uid="fsfc-redis",
    number=5,
    title="Redis",
    description="Whether results fit, who asks for them and how fast they are found.",
    rows=(
        Row(
            title="Now",
            panels=(
                tile(
                    "Up",
                    "min(redis_up)",
                    unit=Unit.NUMBER,
                    description="1 when it answers its exporter.",
                    limits=Limits(warning=1, critical=1, is_falling=True),
                ),
                tile(
                    "Memory used",
                    "sum(redis_memory_used_bytes)",
                    unit=Unit.BYTES,
                    description="By results, marks of revoked tasks and streams of ended ones.",
                ),
                tile(
                    "Keys",
                    "sum(redis_db_keys)",
                    unit=Unit.NUMBER,
                    description="Nearly one per result that has not expired.",
                ),
                tile(
                    "Clients",
                    "sum(redis_connected_clients)",
                    unit=Unit.NUMBER,
                    description="A few per API process and worker child.",
                ),
                tile(
                    "Subscriptions",
                    "sum(redis_pubsub_channels) + sum(redis_pubsub_patterns)",
                    unit=Unit.NUMBER,
                    description="Channels and patterns that results are waited for on: at least one per API "
                    "process.",
                ),
                tile(
                    "Commands",
                    "sum(rate(redis_commands_processed_total[1m]))",
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="In the last minute.",
                ),
            ),
        ),
        Row(
            title="Memory",
            panels=(
                lines(
                    "Memory",
                    query("used", "sum(redis_memory_used_bytes)"),
                    query("as the system sees it", "sum(redis_memory_used_rss_bytes)"),
                    query("limit (0: none)", "sum(redis_memory_max_bytes)"),
                    unit=Unit.BYTES,
                    description="At the limit it refuses results, and workers hold theirs back.",
                ),
                lines(
                    "Keys",
                    query("{{db}}", "sum by (db) (redis_db_keys) > 0"),
                    query("{{db}}, will expire", "sum by (db) (redis_db_keys_expiring) > 0"),
                    unit=Unit.NUMBER,
                    description="What does not expire stays for ever: it is to be little.",
                ),
                lines(
                    "Expired and evicted",
                    query("expired", f"sum(rate(redis_expired_keys_total{RATE}))"),
                    query("evicted", f"sum(rate(redis_evicted_keys_total{RATE}))"),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Evicted are results that somebody may still want: never right.",
                ),
            ),
        ),
        Row(
            title="Commands",
            panels=(
                lines(
                    "Commands",
                    query("{{cmd}}", f"topk(8, sum by (cmd) (rate(redis_commands_total{RATE})))"),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="The eight most frequent.",
                ),
                lines(
                    "Time per command",
                    query(
                        "{{cmd}}",
                        f"topk(8, sum by (cmd) (rate(redis_commands_duration_seconds_total{RATE})) "
                        f"/ (sum by (cmd) (rate(redis_commands_total{RATE})) > 0))",
                    ),
                    unit=Unit.SECONDS,
                    description="Inside Redis; it does one command at a time, so a slow one delays all.",
                ),
                bars(
                    "Commands that failed, over the time shown",
                    query("failed", "sum(increase(redis_commands_failed_calls_total[$__range]))"),
                    query("rejected", "sum(increase(redis_commands_rejected_calls_total[$__range]))"),
                    query("connections refused", "sum(increase(redis_rejected_connections_total[$__range]))"),
                    unit=Unit.NUMBER,
                    description="Rejected: no memory, or no permission.",
                    limits=Limits(warning=1, critical=10),
                ),
            ),
        ),
        Row(
            title="Processor, network, disk",
            panels=(
                lines(
                    "Processor",
                    query("user", f"sum(rate(redis_cpu_user_seconds_total{RATE}))"),
                    query("system", f"sum(rate(redis_cpu_sys_seconds_total{RATE}))"),
                    unit=Unit.RATIO,
                    description="100% is all that it can use.",
                    is_stacked=True,
                ),
                lines(
                    "Network",
                    query("in", f"sum(rate(redis_net_input_bytes_total{RATE}))"),
                    query("out", f"sum(rate(redis_net_output_bytes_total{RATE}))"),
                    unit=Unit.BYTES_PER_SECOND,
                    description="Results in, results out.",
                ),
                lines(
                    "Append-only file",
                    query("size", "sum(redis_aof_current_size_bytes)"),
                    unit=Unit.BYTES,
                    description="What a restart reads again; rewritten when it has doubled.",
                ),
            ),
        ),
    ),
)
