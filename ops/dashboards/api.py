"""D1, the API: requests, errors, latency; its event loop, its database pool, its way to the broker."""

from dashboards.panels import (
    EMPTY,
    RATE,
    TO_ONE_TASK,
    Board,
    Limits,
    Row,
    Unit,
    bars,
    counted,
    lines,
    mean,
    quantile,
    query,
    tile,
)

_CLIENTS = 'route!~"/health.*|/metrics"'
_LATENCY_BY_ROUTE = quantile(0.95, "http_request_duration_seconds", by="route", matchers=_CLIENTS)

BOARD = Board(
    uid="fsfc-api",
    number=1,
    title="API",
    description="What clients ask, what they are answered and how fast, and what the process is short of.",
    links=TO_ONE_TASK,
    rows=(
        Row(
            title="Now",
            panels=(
                tile(
                    "Requests",
                    f"sum(rate(http_requests_total{{{_CLIENTS}}}[1m]))",
                    unit=Unit.REQUESTS_PER_SECOND,
                    description="Clients' requests in the last minute; probes and scrapes are left out.",
                ),
                tile(
                    "Answered 5xx",
                    f'sum(rate(http_requests_total{{{_CLIENTS}, status=~"5.."}}[5m])) '
                    f"/ (sum(rate(http_requests_total{{{_CLIENTS}}}[5m])) > 0) or vector(0)",
                    unit=Unit.RATIO,
                    description="Share of the requests of the last 5 minutes. 0.1% is the budget.",
                    limits=Limits(warning=0.001, critical=0.0144),
                ),
                tile(
                    "95% are faster than",
                    quantile(0.95, "http_request_duration_seconds", matchers=_CLIENTS, window="[$__range]"),
                    unit=Unit.SECONDS,
                    description="Over the time shown, requests that wait for a task's result included.",
                ),
                tile(
                    "In progress",
                    "sum(http_requests_in_progress)",
                    unit=Unit.NUMBER,
                    description="Requests that are being answered, most of them waiting for a result.",
                ),
                tile(
                    "Processes",
                    'sum(up{job="project-api"})',
                    unit=Unit.NUMBER,
                    description="API processes that answer Prometheus.",
                    limits=Limits(warning=1, critical=1, is_falling=True),
                ),
                tile(
                    "Connected to RabbitMQ",
                    "min(celery_producer_connected)",
                    unit=Unit.NUMBER,
                    description="1 when every process is connected; 0 when one is not, and answers 503 to tasks.",
                    limits=Limits(warning=1, critical=1, is_falling=True),
                ),
            ),
        ),
        Row(
            title="Requests",
            panels=(
                lines(
                    "Requests by status",
                    query("{{status}}", f"sum by (status) (rate(http_requests_total{RATE}))"),
                    unit=Unit.REQUESTS_PER_SECOND,
                    description="All requests. 503 is a server that is away, 504 a result that did not come in "
                    "time.",
                    is_stacked=True,
                ),
                lines(
                    "Requests by route",
                    query(
                        "{{method}} {{route}}",
                        f"topk(10, sum by (method, route) (rate(http_requests_total{RATE})))",
                    ),
                    unit=Unit.REQUESTS_PER_SECOND,
                    description="The ten busiest; paths that are no route are one, __unmatched__.",
                ),
                lines(
                    "Answered 4xx and 5xx, by route",
                    query(
                        "{{status}} {{method}} {{route}}",
                        "topk(10, sum by (status, method, route) "
                        f'(rate(http_requests_total{{status=~"4..|5.."}}{RATE})))',
                    ),
                    unit=Unit.REQUESTS_PER_SECOND,
                    description="4xx are the clients' mistakes, 5xx ours.",
                ),
                lines(
                    "Latency of all requests",
                    *(
                        query(
                            f"p{share * 100:g}",
                            quantile(share, "http_request_duration_seconds", matchers=_CLIENTS),
                            has_exemplars=share == 0.99,
                        )
                        for share in (0.5, 0.95, 0.99)
                    ),
                    unit=Unit.SECONDS,
                    description="Half, 95% and 99% of the clients' requests are faster. Each point beside the "
                    "lines is a request: its trace_id leads to its logs, and to its trace where traces are on.",
                ),
                lines(
                    "Latency by route, p95",
                    query(
                        "{{route}}",
                        f"topk(10, {_LATENCY_BY_ROUTE})",
                    ),
                    unit=Unit.SECONDS,
                    description="The ten slowest routes.",
                ),
                bars(
                    "Exceptions behind a 5xx",
                    query(
                        "{{exception}} {{route}}",
                        f"topk(10, {counted('http_exceptions_total', by='exception, route')} > 0)",
                    ),
                    unit=Unit.NUMBER,
                    description=f"By type and route, over the time shown. {EMPTY} no request has failed.",
                    limits=Limits(warning=1, critical=10),
                ),
            ),
        ),
        Row(
            title="What the process is short of",
            panels=(
                lines(
                    "Event loop lag",
                    *(
                        query(f"p{share * 100:g}", quantile(share, "asyncio_event_loop_lag_seconds"))
                        for share in (0.5, 0.95, 0.99)
                    ),
                    unit=Unit.SECONDS,
                    description="How late the loop wakes up: every request waits as long. Over 100 ms, something "
                    "blocks it or the processor is taken.",
                ),
                lines(
                    "Memory",
                    query("{{instance}}", 'process_resident_memory_bytes{job="project-api"}'),
                    unit=Unit.BYTES,
                    description="Memory that grows without end is a leak.",
                ),
                lines(
                    "Processor",
                    query("{{instance}}", f'rate(process_cpu_seconds_total{{job="project-api"}}{RATE})'),
                    unit=Unit.RATIO,
                    description="100% is one processor: all that an event loop can use. Then start a second "
                    "process.",
                ),
            ),
        ),
        Row(
            title="The database, and what waits to be sent from it",
            panels=(
                lines(
                    "Database connections",
                    query("{{pool}} {{state}}", "sum by (pool, state) (db_client_connection_count)"),
                    query("{{pool}} at most", "sum by (pool) (db_client_connection_max)"),
                    unit=Unit.NUMBER,
                    description="Used ones near the most there can be mean that the next requests wait.",
                ),
                lines(
                    "Waiting for a database connection, p95",
                    query("{{pool}}", quantile(0.95, "db_client_connection_wait_time_seconds", by="pool")),
                    unit=Unit.SECONDS,
                    description="Near 0 while the pool is large enough.",
                ),
                lines(
                    "Transactions without a connection",
                    query("{{pool}}", f"sum by (pool) (rate(db_client_connection_timeouts_total{RATE}))"),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="No connection became free in time, or none could be made: each is a 503.",
                ),
                lines(
                    "Outbox",
                    query("{{state}}", "max by (state) (outbox_messages)"),
                    unit=Unit.MESSAGES,
                    description="Tasks that were written with the rows they are about, until RabbitMQ has "
                    "confirmed them. set_aside: they never can be sent; their rows say why.",
                ),
                lines(
                    "Oldest message in the outbox",
                    query("waits for", "max(outbox_oldest_message_age_seconds)"),
                    unit=Unit.SECONDS,
                    description="0 for none. What grows is not sent: RabbitMQ is away, or its queue is full.",
                ),
                lines(
                    "Size of requests and answers, mean",
                    query("requests", mean("http_request_size_bytes")),
                    query("answers", mean("http_response_size_bytes")),
                    unit=Unit.BYTES,
                    description="Bodies only.",
                ),
            ),
        ),
        Row(
            title="Tasks sent and results waited for",
            panels=(
                lines(
                    "Messages sent, by outcome",
                    query("{{outcome}}", f"sum by (outcome) (rate(celery_producer_messages_total{RATE}))"),
                    unit=Unit.MESSAGES_PER_SECOND,
                    description="ok is confirmed by RabbitMQ; every other outcome is a 503 for a client.",
                ),
                lines(
                    "Time to the broker's confirm",
                    *(
                        query(f"p{share * 100:g}", quantile(share, "celery_producer_publish_duration_seconds"))
                        for share in (0.5, 0.95, 0.99)
                    ),
                    unit=Unit.SECONDS,
                    description="RabbitMQ confirms when the message is safe on disk: slow disks are seen here.",
                ),
                lines(
                    "Waits for results, by outcome",
                    query(
                        "{{outcome}}", f"sum by (outcome) (rate(celery_result_wait_duration_seconds_count{RATE}))"
                    ),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="How waiting ended. A timeout is a 504 for a client, whose task is then revoked.",
                ),
                lines(
                    "Tasks revoked, by reason",
                    query("{{reason}}", f"sum by (reason) (rate(celery_producer_revokes_total{RATE}))"),
                    unit=Unit.TASKS_PER_SECOND,
                    description="Cancelled by clients, or given up when their wait ended.",
                ),
                lines(
                    "Reconnections and polls",
                    query("reconnections to RabbitMQ", f"sum(rate(celery_producer_reconnects_total{RATE}))"),
                    query("polls of the result backend", f"sum(rate(celery_result_polls_total{RATE}))"),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Results are pushed; polling is the fallback while Redis' subscription is down.",
                ),
                lines(
                    "Size of messages, mean",
                    query(
                        "{{task}}",
                        mean("celery_producer_message_size_bytes", by="task"),
                    ),
                    unit=Unit.BYTES,
                    description="Large arguments belong into the database, and their id into the message.",
                ),
            ),
        ),
    ),
)
