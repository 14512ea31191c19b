"""D2, the workers: how busy they are, how runs end, how long tasks wait and run."""

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

_FINISHED = "celery_worker_tasks_finished_total"
_ENDED = 'state!~"retry|worker_lost|ignored|revoked"'  # retried and lost ones come again
_RUN = "celery_worker_task_duration_seconds"
_QUEUE = "celery_worker_task_queue_duration_seconds"
_IMPORTS = 'task=~"project-worker.(stage_geonames|load_part|finish_import)"'

BOARD = Board(
    uid="fsfc-workers",
    number=2,
    title="Workers",
    description="How busy the workers are, how their runs end, and how long tasks wait and run.",
    links=TO_ONE_TASK,
    rows=(
        Row(
            title="Now",
            panels=(
                tile(
                    "Workers up",
                    'sum(up{job="project-worker"})',
                    unit=Unit.NUMBER,
                    description="Workers that answer Prometheus: one for JSON tasks, one for pickle, unless "
                    "scaled.",
                    limits=Limits(warning=1, critical=1, is_falling=True),
                ),
                tile(
                    "Busy",
                    "sum(celery_worker_tasks_running) / sum(celery_worker_pool_processes)",
                    unit=Unit.RATIO,
                    description="Running tasks per process of the pools. At 100%, every other task waits.",
                    limits=Limits(warning=0.8, critical=0.95),
                ),
                tile(
                    "Finished",
                    f"sum(rate({_FINISHED}[1m]))",
                    unit=Unit.TASKS_PER_SECOND,
                    description="Runs that ended in the last minute, however they ended.",
                ),
                tile(
                    "Failed",
                    f'sum(rate({_FINISHED}{{{_ENDED}, state!="success"}}[5m])) '
                    f"/ (sum(rate({_FINISHED}{{{_ENDED}}}[5m])) > 0) or vector(0)",
                    unit=Unit.RATIO,
                    description="Share of the tasks that ended in the last 5 minutes. 1% is the budget.",
                    limits=Limits(warning=0.01, critical=0.144),
                ),
                tile(
                    "Oldest running task",
                    "max(celery_worker_oldest_running_task_age_seconds)",
                    unit=Unit.SECONDS,
                    description="0 when none runs. Beyond the time limit, something hangs.",
                    limits=Limits(warning=300, critical=1800),
                ),
                tile(
                    "Children started",
                    "sum(increase(celery_worker_child_starts_total[1h]))",
                    unit=Unit.NUMBER,
                    description="In the last hour. More than processes in the pools: some died and were "
                    "replaced.",
                ),
            ),
        ),
        Row(
            title="How busy",
            panels=(
                lines(
                    "Processes: running tasks of those there are",
                    query("running", "sum(celery_worker_tasks_running)"),
                    query("processes", "sum(celery_worker_pool_processes)"),
                    query("prefetched", "sum(celery_worker_tasks_prefetched)"),
                    query("may be prefetched", "sum(celery_worker_prefetch_limit)"),
                    unit=Unit.NUMBER,
                    description="Running at the number of processes, with prefetched ones: start another worker.",
                ),
                lines(
                    "Running, by task",
                    query("{{task}}", "sum by (task) (celery_worker_tasks_running)"),
                    unit=Unit.TASKS,
                    description="Which task takes the processes.",
                    is_stacked=True,
                ),
                lines(
                    "Received, by queue",
                    query("{{queue}}", f"sum by (queue) (rate(celery_worker_tasks_received_total{RATE}))"),
                    unit=Unit.TASKS_PER_SECOND,
                    description="Deliveries by RabbitMQ; one that is delivered again counts again.",
                ),
            ),
        ),
        Row(
            title="How runs end",
            panels=(
                lines(
                    "Finished, by state",
                    query("{{state}}", f"sum by (state) (rate({_FINISHED}{RATE})) > 0"),
                    unit=Unit.TASKS_PER_SECOND,
                    description="expired: its deadline passed in the queue. worker_lost: its process died; it "
                    "runs "
                    "again. time_limit: it took too long and was killed.",
                    is_stacked=True,
                ),
                bars(
                    "Exceptions over the time shown",
                    query(
                        "{{exception}} {{task}}",
                        f"topk(10, {counted('celery_worker_task_failures_total', by='exception, task')} > 0)",
                    ),
                    unit=Unit.TASKS,
                    description=f"Failed runs by type of exception and task. {EMPTY} no run has failed.",
                    limits=Limits(warning=1, critical=10),
                ),
                lines(
                    "Retries, by task",
                    query("{{task}}", f'sum by (task) (rate({_FINISHED}{{state="retry"}}{RATE}))'),
                    unit=Unit.TASKS_PER_SECOND,
                    description="Something that the task needs is away, or is asked too often.",
                ),
            ),
        ),
        Row(
            title="How long",
            panels=(
                lines(
                    "In the queue against running, p95",
                    query("in the queue", quantile(0.95, _QUEUE)),
                    query("prefetched", quantile(0.95, "celery_worker_task_prefetch_duration_seconds")),
                    query("running", quantile(0.95, _RUN)),
                    query("storing the result", quantile(0.95, "celery_worker_result_store_duration_seconds")),
                    unit=Unit.SECONDS,
                    description="Longer in the queue than running: too few workers. Prefetched is a part of the "
                    "queue.",
                ),
                lines(
                    "Running, by task, p95",
                    query("{{task}}", f"topk(10, {quantile(0.95, _RUN, by='task')})"),
                    unit=Unit.SECONDS,
                    description="The ten slowest tasks.",
                ),
                lines(
                    "In the queue, by task, p95",
                    query("{{task}}", f"topk(10, {quantile(0.95, _QUEUE, by='task')})"),
                    unit=Unit.SECONDS,
                    description="From publishing to the start, less a delay that was asked for. 5 s is the "
                    "promise.",
                ),
                lines(
                    "Processes taken by tasks",
                    query("{{task}}", f"topk(10, sum by (task) (rate({_RUN}_sum{RATE})))"),
                    unit=Unit.RATIO,
                    description="Run time per second: 100% is one process of the pool, waiting included.",
                    is_stacked=True,
                ),
                lines(
                    "Mean run time, by state",
                    query("{{state}}", mean(_RUN, by="state")),
                    unit=Unit.SECONDS,
                    description="Failures that take longer than successes are mostly time-outs.",
                ),
                lines(
                    "Memory of the main processes",
                    query("{{instance}}", 'process_resident_memory_bytes{job="project-worker"}'),
                    unit=Unit.BYTES,
                    description="Without their children, which are on the dashboard Hosts.",
                ),
            ),
        ),
        Row(
            title="Imports of cities",
            panels=(
                lines(
                    "Imports: runs of their tasks",
                    query("{{task}}", f"sum by (task) (rate({_FINISHED}{{{_IMPORTS}}}{RATE}))"),
                    unit=Unit.TASKS_PER_SECOND,
                    description="An import is staged, loaded in parts side by side, and finished.",
                    width=12,
                ),
                lines(
                    "Imports: time of their tasks, p95",
                    query("{{task}}", quantile(0.95, _RUN, by="task", matchers=_IMPORTS)),
                    unit=Unit.SECONDS,
                    description="Each task is one transaction. Parts that grow longer wait for locks or disks: "
                    "see PostgreSQL.",
                    width=12,
                ),
            ),
        ),
        Row(
            title="What should not be",
            panels=(
                lines(
                    "Messages of unknown tasks",
                    query("{{instance}}", "sum by (instance) (increase(celery_worker_unknown_tasks_total[5m]))"),
                    unit=Unit.MESSAGES,
                    description="In 5 minutes. API and worker are of different versions, or a task was renamed.",
                    width=12,
                ),
                lines(
                    "Clocks that differ",
                    query("{{instance}}", "sum by (instance) (increase(celery_worker_clock_skew_total[5m]))"),
                    unit=Unit.MESSAGES,
                    description="Messages from the future, in 5 minutes: the clocks of API and worker differ, "
                    "and "
                    "times in the queue are wrong.",
                    width=12,
                ),
            ),
        ),
    ),
)
