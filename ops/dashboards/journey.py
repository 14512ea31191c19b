"""D0, a task's journey: one task's way from the HTTP request to the delivered result, stage by stage."""

from dashboards.panels import (
    RATE,
    TO_ONE_TASK,
    Board,
    Limits,
    Panel,
    Query,
    Row,
    Unit,
    bars,
    lines,
    quantile,
    query,
    tile,
)

_WAITS = "celery_result_wait_duration_seconds"
_ONE_TASK = 'task!~"chain|group|chord|__other__", outcome="success"'
"""Waits that the stages of one task make up: not those for workflows, nor those that were given up."""
_STAGES = {
    "http": ("HTTP", "http_request_duration_seconds", 'route!~"/health.*|/metrics"'),
    "publish": ("Publish", "celery_producer_publish_duration_seconds", ""),
    "queue": ("Time in queue", "celery_worker_task_queue_duration_seconds", ""),
    "run": ("Run", "celery_worker_task_duration_seconds", ""),
    "store": ("Store", "celery_worker_result_store_duration_seconds", ""),
    "delivery": ("Delivery", "celery_result_delivery_lag_seconds", ""),
    "wait": ("Wait", _WAITS, ""),
}
_MEANINGS = {
    "http": "From the first byte of a request to the end of its answer.",
    "publish": "From sending a message to RabbitMQ's confirmation that it has it.",
    "queue": "From publishing to the start of the run, less a delay that was asked for.",
    "run": "The task's own code.",
    "store": "Writing the result to Redis.",
    "delivery": "From the end of the run until the API has the result; storing it is a part of that.",
    "wait": "What a client waits for its result, from the confirm on: all stages together, but HTTP and "
    "publishing.",
}


def _strip() -> list[Panel]:
    panels = []
    for stage, (title, metric, matchers) in _STAGES.items():
        p95 = quantile(0.95, metric, matchers=matchers, window="[$__range]")
        description = f"{_MEANINGS[stage]} 95% were faster, over the time shown."
        panels.append(tile(title, p95, unit=Unit.SECONDS, description=description, width=3))
    in_progress = tile(
        "Answering now",
        "sum(http_requests_in_progress)",
        unit=Unit.NUMBER,
        description="Requests that the API is answering at this moment, those that wait for a result among them.",
        width=3,
    )
    return [*panels, in_progress]


def _share_of_wait(metric: str) -> str:
    """Return a stage's mean for the tasks that somebody waits for, each task weighted by how often that is."""
    return f"""
        sum(
          sum by (task) (rate({metric}_sum{RATE})) / (sum by (task) (rate({metric}_count{RATE})) > 0)
          * on (task) sum by (task) (rate({_WAITS}_count{{{_ONE_TASK}}}{RATE}))
        ) / (sum(rate({_WAITS}_count{{{_ONE_TASK}}}{RATE})) > 0)
    """


def _stack() -> list[Query]:
    """Return the stages as parts that do not overlap, and what they leave of what was measured as a whole.

    A task's time in the queue begins before RabbitMQ's confirm, and its delivery before the store; a client's
    wait begins after the confirm. So publish + wait = queue + run + delivery.
    """
    wait = f"sum(rate({_WAITS}_sum{{{_ONE_TASK}}}{RATE})) / (sum(rate({_WAITS}_count{{{_ONE_TASK}}}{RATE})) > 0)"
    publish = f"""
        sum(rate(celery_producer_publish_duration_seconds_sum{RATE}))
        / (sum(rate(celery_producer_publish_duration_seconds_count{RATE})) > 0)
    """
    queue, run, store, delivery = (
        _share_of_wait(_STAGES[stage][1]) for stage in ("queue", "run", "store", "delivery")
    )
    return [
        query("publish, to the confirm", publish),
        query("in queue after the confirm", f"clamp_min({queue} - {publish}, 0)"),
        query("run", run),
        query("store", store),
        query("delivery after the store", f"clamp_min({delivery} - {store}, 0)"),
        query("unexplained", f"clamp_min({publish} + {wait} - {queue} - {run} - {delivery}, 0)"),
        query("measured: publish and wait", f"{publish} + {wait}"),
    ]


_FLOW = {
    "published": 'celery_producer_messages_total{outcome="ok"}',
    # Acknowledged by hand are tasks only; what RabbitMQ routes is mostly workers' events.
    "routed to workers": "rabbitmq_global_messages_delivered_consume_manual_ack_total",
    "received": "celery_worker_tasks_received_total",
    "finished": "celery_worker_tasks_finished_total",
    "results delivered": 'celery_result_wait_duration_seconds_count{outcome!="timeout"}',
}

_LOSSES = {
    "not confirmed": 'celery_producer_messages_total{outcome=~"nacked|timeout|error"}',
    "unroutable": 'celery_producer_messages_total{outcome="unroutable"}',
    "expired": 'celery_worker_tasks_finished_total{state="expired"}',
    "revoked": 'celery_worker_tasks_finished_total{state="revoked"}',
    "time limit": 'celery_worker_tasks_finished_total{state="time_limit"}',
    "worker lost": 'celery_worker_tasks_finished_total{state="worker_lost"}',
    "rejected": 'celery_worker_tasks_finished_total{state="rejected"}',
    "failed": 'celery_worker_tasks_finished_total{state="failure"}',
    "unknown task": "celery_worker_unknown_tasks_total",
    "waited in vain": 'celery_result_wait_duration_seconds_count{outcome="timeout"}',
}


def _level(slo: str, title: str, objective: float) -> Panel:
    return tile(
        title,
        f'1 - slo:burn_rate:1h{{slo="{slo}"}} * on (slo) slo:budget:ratio',
        unit=Unit.RATIO,
        description=f"In the last hour; promised are {objective:.1%}. 100% when nothing happened.",
        limits=Limits(warning=objective, critical=1 - 14.4 * (1 - objective), is_falling=True),
        width=6,
        decimals=2,
    )


BOARD = Board(
    uid="fsfc-journey",
    number=0,
    title="A task's journey",
    description="Where a task's time goes, where tasks are now, and which were lost on the way.",
    links=TO_ONE_TASK,
    rows=(
        Row(
            title="Are the promises kept?",
            panels=(
                _level("api", "Requests not answered 5xx", 0.999),
                _level("tasks", "Tasks that succeed", 0.99),
                _level("start", "Tasks that start within 5 s", 0.95),
                tile(
                    "Alerts firing",
                    'count(ALERTS{alertstate="firing", alertname!="Watchdog"}) or vector(0)',
                    unit=Unit.NUMBER,
                    description="Which ones, and what to do, is on Prometheus' page of alerts and in "
                    "docs/runbooks.",
                    limits=Limits(warning=1, critical=5),
                    width=6,
                ),
            ),
        ),
        Row(title="From stage to stage: 95% are faster than", panels=_strip()),
        Row(
            title="Where the time goes",
            panels=(
                lines(
                    "The wait explained: means of its stages",
                    *_stack(),
                    unit=Unit.SECONDS,
                    description="Of tasks that somebody waits for until they succeed, workflows left out: their "
                    "stages, and publishing and waiting as measured as a whole. What the stages leave of it is "
                    "unexplained: clocks that differ, or runs that nobody waits for and that wait otherwise.",
                    width=16,
                    is_stacked=True,
                    unstacked="measured: publish and wait",
                ),
                lines(
                    "Where tasks are now",
                    query(
                        "in RabbitMQ, ready",
                        'sum(rabbitmq_detailed_queue_messages_ready{queue!~"dead-letters.*|celery_delayed_.*"})',
                    ),
                    query(
                        "delayed",
                        'sum(rabbitmq_detailed_queue_messages_ready{queue=~"celery_delayed_.*"}) or vector(0)',
                    ),
                    query("prefetched by a worker", "sum(celery_worker_tasks_prefetched)"),
                    query("running", "sum(celery_worker_tasks_running)"),
                    query("waited for in the API", "sum(celery_result_waiters)"),
                    unit=Unit.TASKS,
                    description="A queue that grows wants more workers; many that are waited for want patience.",
                ),
            ),
        ),
        Row(
            title="Is every task accounted for?",
            panels=(
                lines(
                    "Flow: published = routed = received = finished",
                    *(query(name, f"sum(rate({metric}{RATE}))") for name, metric in _FLOW.items()),
                    unit=Unit.TASKS_PER_SECOND,
                    description="Routed, received and finished lie upon each other when nothing is lost or piles "
                    "up; published, by the API, is less by the retries and the tasks that workers themselves "
                    "publish. Results delivered are those that a client waited for.",
                ),
                bars(
                    "Flow over the time shown",
                    *(query(name, f"sum(increase({metric}[$__range]))") for name, metric in _FLOW.items()),
                    unit=Unit.TASKS,
                    description="The same as numbers of tasks. Interpolated by Prometheus, so not whole.",
                ),
                bars(
                    "Losses over the time shown",
                    *(
                        query(name, f"sum(increase({metric}[$__range])) or vector(0)")
                        for name, metric in _LOSSES.items()
                    ),
                    query(
                        "dead letters now", 'sum(rabbitmq_detailed_queue_messages_ready{queue="dead-letters"})'
                    ),
                    unit=Unit.TASKS,
                    description="Tasks without a result, by why; all 0 on a healthy day. ./stack dead-letters "
                    "shows what can be sent again.",
                    limits=Limits(warning=1, critical=10),
                ),
            ),
        ),
    ),
)
