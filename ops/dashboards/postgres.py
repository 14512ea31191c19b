"""D4, PostgreSQL: sessions, transactions, locks, caches."""

from dashboards.panels import RATE, Board, Limits, Row, Unit, bars, lines, query, tile

_OURS = 'datname!~"template.*|"'  # the empty name is what databases share

BOARD = Board(
    uid="fsfc-postgres",
    number=4,
    title="PostgreSQL",
    description="Who is connected, what is asked, what waits for what, and how large the data has become.",
    rows=(
        Row(
            title="Now",
            panels=(
                tile(
                    "Up",
                    "min(pg_up)",
                    unit=Unit.NUMBER,
                    description="1 when it answers its exporter.",
                    limits=Limits(warning=1, critical=1, is_falling=True),
                ),
                tile(
                    "Connections taken",
                    "sum(pg_stat_activity_count) / max(pg_settings_max_connections)",
                    unit=Unit.RATIO,
                    description="Of max_connections. At 100% the next client is refused.",
                    limits=Limits(warning=0.6, critical=0.8),
                ),
                tile(
                    "Transactions",
                    "sum(rate(pg_stat_database_xact_commit[1m])) + sum(rate(pg_stat_database_xact_rollback[1m]))",
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Committed and rolled back in the last minute, the exporter's own included.",
                ),
                tile(
                    "Found in memory",
                    "sum(rate(pg_stat_database_blks_hit[5m])) "
                    "/ (sum(rate(pg_stat_database_blks_hit[5m])) + sum(rate(pg_stat_database_blks_read[5m])))",
                    unit=Unit.RATIO,
                    description="Share of the blocks that were in its cache. Below 99%, memory is short.",
                    limits=Limits(warning=0.99, critical=0.9, is_falling=True),
                ),
                tile(
                    "Longest transaction",
                    "max(pg_stat_activity_max_tx_duration)",
                    unit=Unit.SECONDS,
                    description="Open at this moment. Long ones hold locks and keep dead rows.",
                    limits=Limits(warning=60, critical=300),
                ),
                tile(
                    "Size",
                    "sum(pg_database_size_bytes)",
                    unit=Unit.BYTES,
                    description="Of all databases.",
                ),
            ),
        ),
        Row(
            title="Clients",
            panels=(
                lines(
                    "Sessions, by state",
                    query("{{state}}", f"sum by (state) (pg_stat_activity_count{{{_OURS}}})"),
                    unit=Unit.NUMBER,
                    description="idle in transaction: a client has begun something and does not go on.",
                    is_stacked=True,
                ),
                lines(
                    "Transactions",
                    query(
                        "committed in {{datname}}",
                        f"sum by (datname) (rate(pg_stat_database_xact_commit{{{_OURS}}}{RATE}))",
                    ),
                    query(
                        "rolled back in {{datname}}",
                        f"sum by (datname) (rate(pg_stat_database_xact_rollback{{{_OURS}}}{RATE}))",
                    ),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Many that are rolled back: clients' requests fail, or write against each other.",
                ),
                lines(
                    "Locks, by mode",
                    query("{{mode}}", f"sum by (mode) (pg_locks_count{{{_OURS}}}) > 0"),
                    unit=Unit.NUMBER,
                    description="Exclusive locks that stay are what others wait for.",
                    is_stacked=True,
                ),
            ),
        ),
        Row(
            title="Rows",
            panels=(
                lines(
                    "Rows read",
                    query("returned", f"sum(rate(pg_stat_database_tup_returned{RATE}))"),
                    query("fetched by index", f"sum(rate(pg_stat_database_tup_fetched{RATE}))"),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Many returned and few fetched: whole tables are read where an index is missing.",
                ),
                lines(
                    "Rows written",
                    query("inserted", f"sum(rate(pg_stat_database_tup_inserted{RATE}))"),
                    query("updated", f"sum(rate(pg_stat_database_tup_updated{RATE}))"),
                    query("deleted", f"sum(rate(pg_stat_database_tup_deleted{RATE}))"),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Imports are seen here.",
                ),
                lines(
                    "Blocks",
                    query("found in memory", f"sum(rate(pg_stat_database_blks_hit{RATE}))"),
                    query("read from disk", f"sum(rate(pg_stat_database_blks_read{RATE}))"),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Of 8 KiB. Those read from disk may still come from the machine's cache.",
                ),
            ),
        ),
        Row(
            title="What costs, and what goes wrong",
            panels=(
                bars(
                    "Longest transaction, by state",
                    query(
                        "{{state}} in {{datname}}",
                        f"topk(10, max by (state, datname) (pg_stat_activity_max_tx_duration{{{_OURS}}}))",
                    ),
                    unit=Unit.SECONDS,
                    description="Open at this moment. idle in transaction: a client does not go on.",
                    limits=Limits(warning=60, critical=300),
                ),
                lines(
                    "Deadlocks and conflicts",
                    query("deadlocks", "sum(increase(pg_stat_database_deadlocks[5m]))"),
                    query("conflicts", "sum(increase(pg_stat_database_conflicts[5m]))"),
                    unit=Unit.NUMBER,
                    description="In 5 minutes. Of each deadlock one transaction is undone and repeated.",
                ),
                lines(
                    "Temporary files",
                    query("written", f"sum(rate(pg_stat_database_temp_bytes{RATE}))"),
                    unit=Unit.BYTES_PER_SECOND,
                    description="Sorts and joins that do not fit into work_mem.",
                ),
                lines(
                    "Size, by database",
                    query("{{datname}}", f"sum by (datname) (pg_database_size_bytes{{{_OURS}}})"),
                    unit=Unit.BYTES,
                    description="Data and indexes.",
                    width=12,
                ),
                lines(
                    "Buffers written",
                    query(
                        "at checkpoints",
                        # By its name up to PostgreSQL 16, and by that from 17 on.
                        f"sum(rate(pg_stat_bgwriter_buffers_checkpoint_total{RATE})) "
                        f"or sum(rate(pg_stat_checkpointer_buffers_written_total{RATE}))",
                    ),
                    query("in the background", f"sum(rate(pg_stat_bgwriter_buffers_clean_total{RATE}))"),
                    query("by sessions themselves", f"sum(rate(pg_stat_bgwriter_buffers_backend_total{RATE}))"),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Written by sessions themselves: they wait for it. Checkpoints come too seldom. "
                    "From PostgreSQL 17 on, the exporter does not count those.",
                    width=12,
                ),
            ),
        ),
    ),
)
