"""Traces of a real API, a real worker and real servers, as a real collector gets them over OTLP/HTTP."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from collector import CLIENT, NO_PARENT, Collector, Span, collecting
from places import CITIES, COUNTRIES, GERMANY, MUNICH, created
from processes import COMMAND, IMPORT_ROOT, WORKER_IMPORTS, Api, Worker, running_api, unused_port, wait_until
from virtual_hosts import management, own_virtual_host
from worker_app import DIE, FAIL, SLEEP

from project_contracts.countries import COUNTRY_STATISTICS
from project_contracts.integers import INTEGER_MULTIPLICATION, INTEGERS_SUM
from project_contracts.queues import PROJECT_WORKER

WORKER = COMMAND.replace("country_worker_app", "traced_worker_app").replace(",sums", "")
MULTIPLY = "/v1/project-worker/integer-multiplication"
SUM = "/v1/project-worker/integers-sum"
API, TASKS = "full-stack-fastapi-celery", "project-worker"  # the services' names
PUBLISH, MULTIPLICATION = f"publish {PROJECT_WORKER}", f"process {INTEGER_MULTIPLICATION.name}"
RUN = 3.0  # s
PATIENT = {"Prefer": "wait=60"}
TOLERANCE = 1.0  # s; between two readings of one moment, in two processes of a machine that is busy
LONGEST_END = 20.0  # s; of a process, which waits a few for its last spans (the SDK by itself 30)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def tracing(collector: Collector) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}


@pytest.fixture(scope="module")
def virtual_host() -> Iterator[str]:
    with own_virtual_host("traces") as name:
        yield name


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@contextmanager
def running_worker(folder: Path, virtual_host: str, command: str = WORKER, **variables: str) -> Iterator[Worker]:
    with environment(RABBITMQ_VHOST=virtual_host, LOG_FORMAT="json", **variables):
        running = Worker(folder / "worker.log", command)
    try:
        wait_until(running.ready, 30, "the worker is ready")
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def traced_worker(
    tmp_path_factory: pytest.TempPathFactory, virtual_host: str, collector: Collector
) -> Iterator[Worker]:
    with running_worker(tmp_path_factory.mktemp("traced"), virtual_host, **tracing(collector)) as running:
        yield running


@pytest.fixture(scope="module")
def traced_api(
    tmp_path_factory: pytest.TempPathFactory, virtual_host: str, collector: Collector
) -> Iterator[Api]:
    log = tmp_path_factory.mktemp("traced-api") / "log"
    with running_api(log, RABBITMQ_VHOST=virtual_host, LOG_FORMAT="json", **tracing(collector)) as running:
        yield running


@pytest.fixture
def http(traced_api: Api, traced_worker: Worker) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=traced_api.url, timeout=30) as client:
        yield client


def new_parent(*, sampled: bool = True) -> tuple[str, dict[str, str]]:
    """A client's trace: its id, and the header that names it."""
    trace_id = uuid.uuid4().hex
    return trace_id, {"traceparent": f"00-{trace_id}-{CLIENT}-{'01' if sampled else '00'}"}


def one(spans: list[Span], name: str) -> Span:
    found = [span for span in spans if span.name == name]
    assert len(found) == 1, f"{len(found)} spans {name!r} in:\n" + "\n".join(map(str, spans))
    return found[0]


def test_one_request_is_one_trace(http: httpx.Client, collector: Collector) -> None:
    trace_id, headers = new_parent()
    began = time.time()
    answer = http.post(
        MULTIPLY,
        json={"multiplicand": SLEEP, "multiplier": int(RUN * 1000)},
        headers={**headers, "X-Request-ID": "request-1"},
    )
    ended = time.time()
    assert answer.status_code == 200, answer.text
    task_id = answer.json()["id"]
    collector.wait_for(1, trace_id=trace_id, kind="SERVER")
    collector.wait_for(1, trace_id=trace_id, name=MULTIPLICATION)
    spans = collector.trace(trace_id)
    server, publish, wait = one(spans, f"POST {MULTIPLY}"), one(spans, PUBLISH), one(spans, "wait result")
    process = one(spans, MULTIPLICATION)
    look_up, store = one(spans, "look up task"), one(spans, "store result")
    assert [(span.parent_id, span.kind, span.service) for span in (server, publish, wait)] == [
        (CLIENT, "SERVER", API),
        (server.span_id, "PRODUCER", API),
        (server.span_id, "INTERNAL", API),
    ]
    assert [(span.parent_id, span.kind, span.service) for span in (process, look_up, store)] == [
        (publish.span_id, "CONSUMER", TASKS),
        (process.span_id, "CLIENT", TASKS),
        (process.span_id, "CLIENT", TASKS),
    ]
    assert len(spans) == 6
    assert server.attributes["http.response.status_code"] == 200
    assert server.attributes["http.request.id"] == "request-1"
    assert publish.attributes == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": PROJECT_WORKER,
        "messaging.message.id": task_id,
        "messaging.message.conversation_id": task_id,
        "celery.task.name": INTEGER_MULTIPLICATION.name,
    }
    assert process.attributes == {
        **publish.attributes,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "celery.task.retries": 0,
        "celery.task.state": "success",
    }
    assert not any(span.failed for span in spans)
    assert began <= server.start <= publish.start <= publish.end <= wait.start + TOLERANCE
    assert publish.start <= process.start <= look_up.start <= look_up.end
    assert look_up.end + RUN <= store.start <= store.end <= process.end
    assert server.end <= ended + TOLERANCE

    def told() -> dict[str, float]:
        steps = http.get(f"/v1/tasks/{task_id}/timeline").json()["steps"]
        return {step["step"]: _seconds(step["at"]) for step in steps}

    wait_until(lambda: "delivered" in told(), 20, "the API has noted all")
    times = told()
    moments = {
        "accepted": publish.start,
        "published": publish.start,
        "confirmed": publish.end,
        "received": process.start,
        "started": look_up.end,
        "finished": store.start,
        "stored": store.end,
        "delivered": wait.end,
    }
    assert times == pytest.approx(moments, abs=TOLERANCE)


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()


def test_no_secret_and_no_argument_is_in_a_trace(http: httpx.Client, collector: Collector) -> None:
    trace_id, headers = new_parent()
    body = {"multiplicand": 918273645, "multiplier": 7}
    assert http.post(MULTIPLY, json=body, headers=headers).json()["result"] == 918273645 * 7
    trace_id, headers = new_parent()
    body = {"multiplicand": FAIL, "multiplier": 424242424}
    assert http.post(f"{MULTIPLY}?token=hunter2", json=body, headers=headers).status_code == 502
    [process] = collector.wait_for(1, trace_id=trace_id, name=MULTIPLICATION)
    [server] = collector.wait_for(1, trace_id=trace_id, kind="SERVER")
    assert (process.failed, process.attributes["error.type"]) == (True, "ValueError")
    assert process.attributes["celery.task.state"] == "failure"
    assert one(collector.trace(trace_id), "wait result").attributes["error.type"] == "TaskFailed"
    assert server.failed
    sent = b"".join(collector.bodies)
    secrets = [value for name, value in os.environ.items() if name.endswith(("PASSWORD", "_KEY")) and value]
    for secret in ["hunter2", "424242424", "918273645", str(918273645 * 7), "told to fail", *secrets]:
        assert secret.encode() not in sent, secret


def test_a_chain_is_one_trace_step_by_step(http: httpx.Client, collector: Collector) -> None:
    trace_id, headers = new_parent()
    answer = http.post("/v1/workflows/chain", json={"integer": 2, "n": 4}, headers=headers)
    assert answer.status_code == 200, answer.text
    steps = sorted(collector.wait_for(4, trace_id=trace_id, name=MULTIPLICATION), key=lambda span: span.start)
    collector.wait_for(1, trace_id=trace_id, kind="SERVER")
    collector.wait_for(4, trace_id=trace_id, kind="PRODUCER")
    spans = {span.span_id: span for span in collector.trace(trace_id)}
    before = next(span for span in spans.values() if span.kind == "SERVER")
    for step in steps:
        publish = spans[step.parent_id]
        assert (publish.name, publish.parent_id) == (PUBLISH, before.span_id), step
        assert step.attributes["messaging.message.conversation_id"] == answer.json()["id"]
        before = step


def test_a_chord_is_one_trace(http: httpx.Client, collector: Collector) -> None:
    trace_id, headers = new_parent()
    answer = http.post("/v1/workflows/chord", json={"integer": 2, "n": 3}, headers=headers)
    assert answer.status_code == 200, answer.text
    members = collector.wait_for(3, trace_id=trace_id, name=MULTIPLICATION)
    # The callback fails once, and is tried again.
    bodies = collector.wait_for(2, trace_id=trace_id, name=f"process {INTEGERS_SUM.name}")
    collector.wait_for(1, trace_id=trace_id, kind="SERVER")
    spans = {span.span_id: span for span in collector.trace(trace_id)}
    sent = spans[members[0].parent_id]
    assert {member.parent_id for member in members} == {sent.span_id}
    assert sent.attributes["messaging.batch.message_count"] == 3
    assert sent.attributes["celery.task.name"] == "chord"
    first = min(bodies, key=lambda span: span.start)
    # It was sent by the member that was the last one to end.
    assert spans[spans[first.parent_id].parent_id] == max(members, key=lambda span: span.end)
    assert {span.trace_id for span in spans.values()} == {trace_id}


def test_a_retry_goes_on_with_its_trace(http: httpx.Client, collector: Collector) -> None:
    trace_id, headers = new_parent()
    assert http.post(SUM, json={"integers": [1, 2]}, headers=headers).json()["result"] == 3
    runs = collector.wait_for(2, trace_id=trace_id, name=f"process {INTEGERS_SUM.name}")
    first, second = sorted(runs, key=lambda span: span.attributes["celery.task.retries"])
    assert (first.attributes["celery.task.state"], first.failed) == ("retry", False)
    assert second.attributes["celery.task.state"] == "success"
    [again] = [span for span in collector.trace(trace_id) if span.span_id == second.parent_id]
    assert (again.name, again.parent_id, again.service) == (PUBLISH, first.span_id, TASKS)


def test_the_outbox_and_the_database_are_in_the_trace(
    http: httpx.Client, clean_tables: None, collector: Collector
) -> None:
    created(http, COUNTRIES, GERMANY)
    trace_id, headers = new_parent()
    http.post(CITIES, json=MUNICH, headers=headers).raise_for_status()
    [task] = collector.wait_for(1, trace_id=trace_id, name=f"process {COUNTRY_STATISTICS.name}")
    [server] = collector.wait_for(1, trace_id=trace_id, kind="SERVER")
    spans = {span.span_id: span for span in collector.trace(trace_id)}
    publish = spans[task.parent_id]
    assert (publish.name, publish.parent_id) == (PUBLISH, server.span_id)  # by the relay, which serves no request
    statements = [span for span in spans.values() if span.attributes.get("db.system.name") == "postgresql"]
    of_request = {span.name for span in statements if span.parent_id == server.span_id}
    of_task = {span.name for span in statements if span.parent_id == task.span_id}
    assert {"INSERT cities", "INSERT outbox", "COMMIT"} <= of_request, of_request
    assert {"BEGIN", "COMMIT"} <= of_task, of_task
    assert {span.kind for span in statements} == {"CLIENT"}
    assert all(server.start <= span.start <= span.end for span in statements)
    assert not any("Munich" in str(span.attributes) for span in statements)
    # What goes round SQLAlchemy, too.
    trace_id, headers = new_parent()
    http.get(f"{CITIES}/{MUNICH['geonameid']}", headers=headers).raise_for_status()
    [server] = collector.wait_for(1, trace_id=trace_id, kind="SERVER")
    [select] = collector.wait_for(1, trace_id=trace_id, name="SELECT cities")
    assert select.parent_id == server.span_id


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "hello",
        f"00-{'0' * 32}-{'c' * 16}-01",
        f"00-{'a' * 32}-{'0' * 16}-01",
        f"ff-{'a' * 32}-{'c' * 16}-01",
        f"00-{'A' * 31}-{'c' * 16}-01",
    ],
)
def test_what_is_no_traceparent_is_ignored(http: httpx.Client, collector: Collector, traceparent: str) -> None:
    request_id = uuid.uuid4().hex
    answer = http.post(
        f"{MULTIPLY}/async",
        json={"multiplicand": 6, "multiplier": 7},
        headers={"traceparent": traceparent, "X-Request-ID": request_id},
    )
    assert answer.status_code == 202, answer.text
    [server] = collector.wait_for(1, http__request__id=request_id)
    assert server.parent_id == NO_PARENT
    assert server.trace_id not in traceparent
    collector.wait_for(1, trace_id=server.trace_id, name=MULTIPLICATION)


def test_what_its_client_does_not_sample_is_not_sent(http: httpx.Client, collector: Collector) -> None:
    unsampled, headers = new_parent(sampled=False)
    body = {"multiplicand": 6, "multiplier": 7}
    assert http.post(MULTIPLY, json=body, headers=headers).status_code == 200
    sampled, headers = new_parent()
    # Children of both processes of the pool, and batches of the API, that were after it.
    for _ in range(8):
        assert http.post(MULTIPLY, json=body, headers=headers).status_code == 200
    collector.wait_for(8, trace_id=sampled, name=MULTIPLICATION)
    collector.wait_for(8, trace_id=sampled, kind="SERVER")
    assert collector.trace(unsampled) == []


def test_probes_and_scrapes_are_not_traced(http: httpx.Client, collector: Collector) -> None:
    trace_id, headers = new_parent()
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert http.get(path, headers=headers).status_code == 200
    assert http.get("/v1/tasks/none", headers=headers).status_code == 422
    [server] = collector.wait_for(1, trace_id=trace_id)
    assert server.name == "GET /v1/tasks/{task_id}"
    assert collector.trace(trace_id) == [server]


def test_exemplars_and_lines_name_the_trace(
    http: httpx.Client, traced_api: Api, traced_worker: Worker, collector: Collector
) -> None:
    trace_id, headers = new_parent()
    assert http.post(MULTIPLY, json={"multiplicand": 6, "multiplier": 7}, headers=headers).status_code == 200
    for log, count in ((traced_api.log, 1), (traced_worker.log, 1)):
        wait_until(lambda log=log, count=count: len(lines(log, trace_id)) >= count, 20, f"lines in {log}")  # type: ignore[misc]  # bound
    [process] = collector.wait_for(1, trace_id=trace_id, name=MULTIPLICATION)
    assert process.span_id in {line["span.id"] for line in lines(traced_worker.log, trace_id)}
    openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    def is_named() -> bool:
        http.post(MULTIPLY, json={"multiplicand": 6, "multiplier": 7}, headers=headers).raise_for_status()
        return trace_id in http.get("/metrics", headers={"Accept": openmetrics}).text

    wait_until(is_named, 20, "a bucket takes the exemplar, once a second")


def lines(log: Path, trace_id: str) -> list[dict[str, Any]]:
    written, _, _ = log.read_text().rpartition("\n")  # the last line may be half written
    found = (json.loads(line) for line in written.splitlines() if line.startswith('{"@timestamp"'))
    return [line for line in found if line.get("trace.id") == trace_id]


@pytest.fixture
def own_host() -> Iterator[str]:
    with own_virtual_host("traces") as name:
        yield name


@pytest.fixture
def late() -> Iterator[Collector]:
    """A collector for processes that send nothing until they end."""
    with collecting() as running:
        yield running


def at_the_end(collector: Collector) -> dict[str, str]:
    return tracing(collector) | {"OTEL_BSP_SCHEDULE_DELAY": "600000"}


def multiply(api: Api, times: int, multiplicand: int = 6) -> list[int]:
    with httpx.Client(base_url=api.url, timeout=70) as http:
        body = {"multiplicand": multiplicand, "multiplier": 7}
        return [http.post(MULTIPLY, json=body, headers=PATIENT).status_code for _ in range(times)]


def test_a_process_that_ends_sends_its_last_spans(tmp_path: Path, own_host: str, late: Collector) -> None:
    settings = at_the_end(late)
    with running_api(tmp_path / "api.log", RABBITMQ_VHOST=own_host, **settings) as api:
        with running_worker(tmp_path, own_host, f"{WORKER} --max-tasks-per-child 2", **settings):
            assert multiply(api, 5) == [200] * 5
            late.wait_for(2, name=MULTIPLICATION)  # of a process that has run its two tasks
        assert len(late.wait_for(5, name=MULTIPLICATION)) == 5  # its end was waited for
        assert late.wait_for(0, kind="SERVER") == []
    assert len(late.wait_for(5, name=f"POST {MULTIPLY}")) == 5


def test_a_killed_process_takes_its_own_spans_alone(tmp_path: Path, own_host: str, late: Collector) -> None:
    settings = at_the_end(late)
    with (
        running_api(tmp_path / "api.log", RABBITMQ_VHOST=own_host, **tracing(late)) as api,
        running_worker(tmp_path, own_host, **settings) as worker,
    ):
        assert multiply(api, 1, DIE) == [502]  # two processes have died of it
        assert multiply(api, 4) == [200] * 4
        worker.stop()
        runs = late.wait_for(5, name=MULTIPLICATION)
        assert [span.attributes["celery.task.state"] for span in runs].count("success") == 4
        [given_up] = [span for span in runs if span.failed]
        assert given_up.attributes["error.type"] == "WorkerLost"
        [publish] = late.wait_for(1, span_id=given_up.parent_id)
        assert publish.service == API


@pytest.mark.parametrize("fault", ["away", "refusing", "silent"])
def test_nobody_notices_that_the_collector_fails(
    tmp_path: Path, own_host: str, late: Collector, fault: str
) -> None:
    settings = tracing(late)
    if fault == "away":
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{unused_port()}"
    elif fault == "refusing":
        late.status = 400
    else:
        late.silent.set()
    with (
        running_worker(tmp_path, own_host, **settings) as worker,
        running_api(tmp_path / "api.log", RABBITMQ_VHOST=own_host, **settings) as api,
    ):
        began = time.monotonic()
        assert multiply(api, 20) == [200] * 20
        assert time.monotonic() - began < 30
        if fault != "silent":  # it is not known yet
            for log in (api.log, worker.log):
                wait_until(lambda log=log: "spans are lost" in log.read_text(), 20, f"{log} says so")  # type: ignore[misc]  # bound
        for process in (api.process, worker.process):
            process.terminate()
            process.wait(LONGEST_END)
        assert api.log.read_text().count("spans are lost") <= 1
        assert worker.log.read_text().count("spans are lost") <= 2  # of each process of the pool
        assert "Traceback" not in api.log.read_text() + worker.log.read_text()


def test_off_is_the_default(tmp_path: Path, own_host: str, late: Collector) -> None:
    with running_api(tmp_path / "off.log", RABBITMQ_VHOST=own_host) as api:
        assert send_one(api)["x-request-id"] == "request-2"
        [message] = taken(own_host)
        assert message["x-request-id"] == "request-2"
        assert message.keys().isdisjoint({"traceparent", "tracestate"})
    with running_api(tmp_path / "on.log", RABBITMQ_VHOST=own_host, **tracing(late)) as api:
        send_one(api)
        [message] = taken(own_host)
        [publish] = late.wait_for(1, name=PUBLISH)
        assert message["traceparent"] == f"00-{publish.trace_id}-{publish.span_id}-01"


def send_one(api: Api) -> httpx.Headers:
    answer = httpx.post(
        f"{api.url}{MULTIPLY}/async",
        json={"multiplicand": 6, "multiplier": 7},
        headers={"X-Request-ID": "request-2", **new_parent()[1]},
    )
    assert answer.status_code == 202, answer.text
    return answer.headers


def taken(virtual_host: str) -> list[dict[str, Any]]:
    """The headers of the messages in the queue, which is empty afterwards."""
    with management() as broker:
        answer = broker.post(
            f"/queues/{virtual_host}/{PROJECT_WORKER}/get",
            json={"count": 10, "ackmode": "ack_requeue_false", "encoding": "auto"},
        ).raise_for_status()
    return [message["properties"]["headers"] for message in answer.json()]


@pytest.mark.parametrize(
    ("program", "folder"), [("import api", IMPORT_ROOT), ("import traced_worker_app", Path(__file__).parent)]
)
def test_off_imports_nothing_of_it(program: str, folder: Path) -> None:
    """FastAPI imports OpenTelemetry's API itself, and redis-py its SDK where that is installed."""
    code = f"import sys; {program}; print(*sys.modules)"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*WORKER_IMPORTS, *sys.path)))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environ, capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    assert {"async_celery", "project_contracts.traces", "project_database.sessions"} <= imported
    ours = {"async_celery.tracing", "project_contracts.otlp", "project_database.tracing"}
    way_out = {"opentelemetry.exporter", "opentelemetry.proto", "google.protobuf", "requests"}
    assert imported.isdisjoint(ours | way_out)
