"""D7, the monitoring itself: whether everything is scraped, what that costs, whether alerts are delivered."""

from dashboards.panels import RATE, Board, Limits, Row, Unit, bars, lines, query, tile

_MONITORS = 'job=~"prometheus|alertmanager|node|redis|postgres|process|flower"'

BOARD = Board(
    uid="fsfc-monitoring",
    number=7,
    title="The monitoring itself",
    description="Whether the other dashboards can be believed: what is scraped, what it costs, who is told.",
    rows=(
        Row(
            title="Now",
            panels=(
                tile(
                    "Targets down",
                    "count(up == 0) or vector(0)",
                    unit=Unit.NUMBER,
                    description="Scraped, but silent; Prometheus' page of targets says why.",
                    limits=Limits(warning=1, critical=1),
                ),
                tile(
                    "Series",
                    "sum(prometheus_tsdb_head_series)",
                    unit=Unit.NUMBER,
                    description="That Prometheus holds. Steady growth: a label has values without end.",
                    limits=Limits(warning=100_000, critical=1_000_000),
                ),
                tile(
                    "Samples",
                    "sum(rate(prometheus_tsdb_head_samples_appended_total[5m]))",
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Taken per second.",
                ),
                tile(
                    "Rules that fail",
                    "sum(increase(prometheus_rule_evaluation_failures_total[5m]))",
                    unit=Unit.NUMBER,
                    description="In 5 minutes. Their alerts cannot fire.",
                    limits=Limits(warning=1, critical=1),
                ),
                tile(
                    "Alertmanagers",
                    "max(prometheus_notifications_alertmanagers_discovered)",
                    unit=Unit.NUMBER,
                    description="That Prometheus tells. With none, nobody hears of an alert.",
                    limits=Limits(warning=1, critical=1, is_falling=True),
                ),
                tile(
                    "On disk",
                    "sum(prometheus_tsdb_storage_blocks_bytes)",
                    unit=Unit.BYTES,
                    description="Blocks written so far; the last hours are in memory.",
                ),
            ),
        ),
        Row(
            title="Scrapes",
            panels=(
                lines(
                    "Up, by job",
                    query("{{job}}", "min by (job) (up)"),
                    unit=Unit.NUMBER,
                    description="1 when all of a job's targets answer.",
                ),
                lines(
                    "Time of a scrape, by job",
                    query("{{job}}", "max by (job) (scrape_duration_seconds)"),
                    unit=Unit.SECONDS,
                    description="It is given up after 4 s.",
                ),
                bars(
                    "Samples of a scrape, by job",
                    query("{{job}}", "sum by (job) (scrape_samples_post_metric_relabeling)"),
                    unit=Unit.NUMBER,
                    description="Which job the series come from.",
                ),
            ),
        ),
        Row(
            title="Rules and alerts",
            panels=(
                lines(
                    "Time of a group of rules",
                    query(
                        "{{group}}",  # without the folder that the file is in
                        "label_replace(max by (rule_group) (prometheus_rule_group_last_duration_seconds), "
                        '"group", "$1", "rule_group", ".*/(.+)")',
                    ),
                    unit=Unit.SECONDS,
                    description="To be far below the 5 s between two evaluations.",
                ),
                lines(
                    "Alerts, by state",
                    query("{{alertname}} {{alertstate}}", "sum by (alertname, alertstate) (ALERTS)"),
                    unit=Unit.NUMBER,
                    description="Watchdog always fires: it shows that alerts are evaluated.",
                ),
                lines(
                    "Notifications",
                    query("sent to Alertmanager", f"sum(rate(prometheus_notifications_sent_total{RATE}))"),
                    query("dropped", f"sum(rate(prometheus_notifications_dropped_total{RATE}))"),
                    query("failed in Alertmanager", f"sum(rate(alertmanager_notifications_failed_total{RATE}))"),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Dropped: Alertmanager was away. Failed: a receiver was.",
                ),
            ),
        ),
        Row(
            title="What it costs",
            panels=(
                lines(
                    "Memory",
                    query(
                        "{{job}}",
                        f"sum by (job) (process_resident_memory_bytes{{{_MONITORS}}})",
                    ),
                    unit=Unit.BYTES,
                    description="Of the monitoring's programs; each job's own, not what it watches.",
                    is_stacked=True,
                ),
                lines(
                    "Processor",
                    query(
                        "{{job}}",
                        f"sum by (job) (rate(process_cpu_seconds_total{{{_MONITORS}}}{RATE}))",
                    ),
                    unit=Unit.RATIO,
                    description="100% is one processor.",
                    is_stacked=True,
                ),
                lines(
                    "Queries",
                    query(
                        "{{slice}}",
                        f"sum by (slice) (rate(prometheus_engine_query_duration_seconds_count{RATE}))",
                    ),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="By people, Grafana and rules, by their steps.",
                ),
            ),
        ),
    ),
)
