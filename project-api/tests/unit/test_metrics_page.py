"""The page that lists the metrics is what is measured, and that is what dashboards and alerts rely on.

Run as a program, this writes the API's part of docs/reference/metrics.md: the figures of a registry, each with
its type, labels and help text. That part is never edited by hand. The workers' comes after it, and has a test of
its own: project-worker/tests/integration/test_metrics_page.py.
"""

from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr

from app.core import metrics
from app.core.config import Settings
from app.main import create_app

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
COMMAND = (
    "PYTHONPATH=project-api/project-api .stack/venvs/project-api/bin/python "
    "project-api/tests/unit/test_metrics_page.py"
)

_HEAD = f"""# What is measured

By the API, and by its workers, whose part is the second one.

## The API

`GET /metrics` of the API, in Prometheus' text format or as OpenMetrics, where a bucket of
`http_request_duration_seconds` names one of its requests (`trace_id`). No login: keep it from the public.
Prometheus scrapes it as job `project-api`; each process answers for itself, so run one per port.

Labels never hold an id, a raw path or a text. Of what a client or a stored result can make up there is one
value: `route="__unmatched__"`, `method="__other__"`, `task="__other__"`, `queue="__other__"`. Known series
begin at 0. Beside these figures stand prometheus_client's own of the process: `process_*`, `python_*`.

A test fails when this part is out of date. It is written, after `./stack up`, by:

```
{COMMAND}
```
"""

_WORKERS = "\n## The workers\n"
"""Where the other part begins."""

_SUFFIXES = {"counter": "_total", "info": "_info"}

_BUCKETS = {
    metrics.HANDLING: "handling",
    metrics.RUNS: "runs",
    metrics.LATENCIES: "latencies",
    metrics.SIZES: "sizes",
}


# observability.md's catalogue, and the outbox.
CATALOGUE = {
    "app_build_info": (),
    "asyncio_event_loop_lag_seconds": (),
    "celery_producer_connected": (),
    "celery_producer_message_size_bytes": ("task",),
    "celery_producer_messages_total": ("task", "queue", "outcome"),
    "celery_producer_publish_duration_seconds": ("queue", "outcome"),
    "celery_producer_reconnects_total": (),
    "celery_producer_revokes_total": ("task", "reason"),
    "celery_result_delivery_lag_seconds": ("task",),
    "celery_result_polls_total": (),
    "celery_result_wait_duration_seconds": ("task", "outcome"),
    "celery_result_waiters": (),
    "db_client_connection_count": ("pool", "state"),
    "db_client_connection_max": ("pool",),
    "db_client_connection_timeouts_total": ("pool",),
    "db_client_connection_wait_time_seconds": ("pool",),
    "http_exceptions_total": ("route", "exception"),
    "http_request_duration_seconds": ("method", "route", "status_class"),
    "http_request_size_bytes": ("route",),
    "http_requests_in_progress": ("method",),
    "http_requests_total": ("method", "route", "status"),
    "http_response_size_bytes": ("route",),
    "outbox_messages": ("state",),
    "outbox_oldest_message_age_seconds": (),
}


def registry() -> CollectorRegistry:
    """Return the registry of an API."""
    secret = SecretStr("0123456789abcdef")
    settings = Settings(
        _env_file=None,
        rabbitmq_password=secret,
        redis_password=secret,
        postgres_password=secret,
        task_id_key=secret,
        signed_pickle_key=secret,
    )
    made: CollectorRegistry = create_app(settings).state.registry
    return made


def measures() -> list[MetricWrapperBase]:
    """Return what is measured, by name."""
    # The registry gives figures only, and none of what has no label values yet: what it holds is not public.
    own = [each for each in registry()._collector_to_names if isinstance(each, MetricWrapperBase)]
    return sorted(own, key=name_of)


def name_of(measure: MetricWrapperBase) -> str:
    """Return the name as it is queried."""
    return f"{measure._name}{_SUFFIXES.get(str(measure._type), '')}"


def write() -> str:
    """Return the API's part of the page."""
    rows = [
        f"| `{name_of(each)}` | {_type(each)} | {_labels(each)} | {each._documentation} |" for each in measures()
    ]
    buckets = [f"| {name} | {', '.join(f'{bound:g}' for bound in bounds)} |" for bounds, name in _BUCKETS.items()]
    return "\n".join(
        (
            _HEAD,
            "| name | type | labels | |",
            "|---|---|---|---|",
            *rows,
            "",
            "| buckets | upper bounds, in s or bytes |",
            "|---|---|",
            *buckets,
            "",
        )
    )


def _type(measure: MetricWrapperBase) -> str:
    if measure._type != "histogram":
        return str(measure._type)
    return f"histogram: {_BUCKETS[tuple(measure._kwargs['buckets'])]}"


def _labels(measure: MetricWrapperBase) -> str:
    return ", ".join(f"`{label}`" for label in measure._labelnames)


def test_the_page_is_up_to_date() -> None:
    own, _, _ = PAGE.read_text().partition(_WORKERS)
    assert own == write(), f"run {COMMAND}"


def test_names_and_labels_are_the_published_ones() -> None:
    assert {name_of(measure): tuple(measure._labelnames) for measure in measures()} == CATALOGUE


if __name__ == "__main__":
    _, *workers = PAGE.read_text().partition(_WORKERS)
    PAGE.write_text("".join((write(), *workers)))
