"""A task's timeline says of one task what the metrics say of all: here it is the only one, and they agree.

How it works: an API and a worker of their own, whose queues nobody else consumes. What the metrics have grown by
is compared with the timeline's durations, within TOLERANCE; each stage is made longer than that, so that one is
not taken for another.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis
from processes import COMMAND, Api, Worker, running_api, unused_port, wait_until
from scraping import Growth, scrape, value
from virtual_hosts import own_virtual_host
from worker_app import SLEEP

from project_contracts.integers import INTEGER_MULTIPLICATION, INTEGERS_SUM

TOLERANCE = 0.5  # s: what two processes on a busy machine need between two looks at their clocks
NOTICEABLE = 2.5 * TOLERANCE
WORKER = COMMAND.replace("country_worker_app", "measured_worker_app").replace(",sums", "")
MULTIPLY = "/v1/project-worker/integer-multiplication"
SUM = "/v1/project-worker/integers-sum"
QUEUE = "celery_worker_task_queue_duration_seconds"
RUN = "celery_worker_task_duration_seconds"
STORE = "celery_worker_result_store_duration_seconds"
LAG = "celery_result_delivery_lag_seconds"
WAIT = "celery_result_wait_duration_seconds"
PUBLISH = "celery_producer_publish_duration_seconds"


class MeasuredWorker(Worker):
    """A worker with an endpoint."""

    url: str


@pytest.fixture(scope="module")
def virtual_host() -> Iterator[str]:
    with own_virtual_host("journeys") as name:
        yield name


@pytest.fixture(scope="module")
def measured_worker(tmp_path_factory: pytest.TempPathFactory, virtual_host: str) -> Iterator[MeasuredWorker]:
    port = unused_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RABBITMQ_VHOST", virtual_host)
        environment.setenv("METRICS_PORT", port)
        running = MeasuredWorker(tmp_path_factory.mktemp("measured-worker") / "log", WORKER)
    running.url = f"http://127.0.0.1:{port}"
    try:
        wait_until(running.ready, 60, "the worker is ready")
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def measured_api(tmp_path_factory: pytest.TempPathFactory, virtual_host: str) -> Iterator[Api]:
    log = tmp_path_factory.mktemp("measured-api") / "log"
    with running_api(log, RABBITMQ_VHOST=virtual_host) as running:
        yield running


@pytest.fixture
def http(measured_api: Api, measured_worker: MeasuredWorker) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=measured_api.url, timeout=30) as client:
        yield client


class Journey:
    """What a task's timeline says, and what the metrics have grown by since the task was sent; in s."""

    def __init__(self, api: Api, worker: MeasuredWorker) -> None:
        self._api, self._worker = Growth(api), Growth(worker)
        self.document: dict[str, Any] = {}

    def read(self, http: httpx.Client, task_id: str) -> None:
        """Read the timeline, once it is complete, and so are the metrics."""

        def is_complete() -> bool:
            self.document = http.get(f"/v1/tasks/{task_id}/timeline").json()
            return {"delivered", "confirmed"} <= {step["step"] for step in self.document["steps"]}

        wait_until(is_complete, 20, "the timeline has every step")
        # A task's run is counted after its result has gone out.
        stored = len(self.document["children"]) or 1
        wait_until(lambda: self.worker(f"{RUN}_count", state="success") == stored, 20, "its run is counted")

    def stage(self, name: str, document: dict[str, Any] | None = None) -> float:
        milliseconds = (document or self.document)["durations"][name]
        assert milliseconds is not None, name
        return float(milliseconds) / 1000

    def api(self, name: str, **labels: str) -> float:
        return self._api.of(name, **labels)

    def worker(self, name: str, **labels: str) -> float:
        return self._worker.of(name, **labels)

    def agrees(self, said: float, measured: float, what: str) -> None:
        assert said == pytest.approx(measured, abs=TOLERANCE), (what, self.document)

    def adds_up(self) -> None:
        durations = dict(self.document["durations"])
        durations.pop("publish")
        total = durations.pop("total")
        assert sum(ms for ms in durations.values() if ms is not None) == pytest.approx(total, abs=0.01)


@pytest.fixture
def journey(http: httpx.Client, measured_api: Api, measured_worker: MeasuredWorker) -> Journey:
    return Journey(measured_api, measured_worker)


def in_background(request: Callable[[], httpx.Response]) -> Callable[[], httpx.Response]:
    """Send a request; the function that is returned waits for its answer."""
    pool = ThreadPoolExecutor(1)
    answer = pool.submit(request)
    pool.shutdown(wait=False)
    return answer.result


def test_a_task_s_timeline_agrees_with_the_metrics(
    http: httpx.Client, journey: Journey, measured_worker: MeasuredWorker
) -> None:
    name = INTEGER_MULTIPLICATION.name
    slow = {"multiplicand": SLEEP, "multiplier": 2000}
    with measured_worker.standing_still():
        answer = in_background(lambda: http.post(MULTIPLY, json=slow, headers={"Prefer": "wait=25"}))
        sent = {"queue": INTEGER_MULTIPLICATION.queue, "outcome": "ok"}
        wait_until(lambda: journey.api(f"{PUBLISH}_count", **sent) == 1, 20, "the task is in its queue")
        time.sleep(NOTICEABLE)
    running = {"name": "celery_worker_tasks_running", "task": name}
    wait_until(lambda: value(scrape(measured_worker), **running) == 1, 20, "the task runs")
    with redis.Redis(
        host=os.environ["REDIS_HOST"], port=int(os.environ["REDIS_PORT"]), password=os.environ["REDIS_PASSWORD"]
    ) as store:
        # From before the run's end to well after it.
        store.execute_command("CLIENT", "PAUSE", 2500 + round(NOTICEABLE * 1000), "WRITE")
    assert answer().status_code == 200
    journey.read(http, answer().json()["id"])

    journey.adds_up()
    assert journey.stage("unexplained") == 0
    assert journey.stage("queue") > NOTICEABLE
    assert journey.stage("run") > 1.99
    assert journey.stage("store") > NOTICEABLE
    of_task = {"task": name}
    journey.agrees(journey.stage("publish"), journey.api(f"{PUBLISH}_sum", **sent), "publish")
    journey.agrees(journey.stage("queue"), journey.worker(f"{QUEUE}_sum", **of_task), "queue")
    journey.agrees(journey.stage("run"), journey.worker(f"{RUN}_sum", **of_task, state="success"), "run")
    journey.agrees(journey.stage("store"), journey.worker(f"{STORE}_sum", **of_task), "store")
    lag = journey.api(f"{LAG}_sum", **of_task)
    journey.agrees(journey.stage("store") + journey.stage("delivery"), lag, "delivery lag")
    # The wait begins with the confirm.
    waited = journey.stage("total") - journey.stage("before") - journey.stage("publish")
    journey.agrees(waited, journey.api(f"{WAIT}_sum", **of_task, outcome="success"), "wait")
    request = journey.api("http_request_duration_seconds_sum", route=MULTIPLY, method="POST")
    journey.agrees(journey.stage("total"), request, "request")


def test_a_retried_task_s_timeline_is_of_its_last_run(http: httpx.Client, journey: Journey) -> None:
    answer = http.post(SUM, json={"integers": [1, 2]}, headers={"Prefer": "wait=25"})
    assert answer.status_code == 200, answer.text
    journey.read(http, answer.json()["id"])

    journey.adds_up()
    of_task = {"task": INTEGERS_SUM.name}
    assert journey.worker(f"{QUEUE}_count", **of_task) == 2
    assert journey.worker(f"{RUN}_count", **of_task, state="retry") == 1
    assert journey.stage("delay") == pytest.approx(1, abs=TOLERANCE)  # the pause before the retry
    journey.agrees(journey.stage("run"), journey.worker(f"{RUN}_sum", **of_task, state="success"), "run")
    # Neither figure has the pause in it. The first run has sent the last message before it ended itself.
    both_queues = journey.worker(f"{QUEUE}_sum", **of_task)
    first_run = journey.worker(f"{RUN}_sum", **of_task, state="retry")
    until_started = journey.stage("before") + journey.stage("queue")
    assert both_queues - TOLERANCE < until_started < both_queues + first_run + TOLERANCE, journey.document
    assert journey.document["durations"]["publish"] is None
    waited = journey.api(f"{WAIT}_sum", **of_task, outcome="success")
    journey.agrees(journey.stage("total"), waited, "wait")


def test_a_workflow_s_timeline_agrees_with_the_metrics_of_its_tasks(http: httpx.Client, journey: Journey) -> None:
    members = 5
    answer = http.post("/v1/workflows/chain", json={"integer": 2, "n": members}, headers={"Prefer": "wait=25"})
    assert answer.status_code == 200, answer.text
    journey.read(http, answer.json()["id"])

    journey.adds_up()
    children = journey.document["children"]
    assert len(children) == members
    of_task = {"task": INTEGER_MULTIPLICATION.name}
    assert journey.worker(f"{QUEUE}_count", **of_task) == members
    for stage, name in (("queue", QUEUE), ("run", RUN), ("store", STORE)):
        of_members = sum(journey.stage(stage, child) for child in children)
        journey.agrees(of_members, journey.worker(f"{name}_sum", **of_task), stage)
        # One after the other: nothing of one hides what is of another.
        journey.agrees(journey.stage(stage), of_members, f"{stage} of the whole")
    waited = journey.stage("total") - journey.stage("before") - journey.stage("publish")
    journey.agrees(waited, journey.api(f"{WAIT}_sum", task="chain", outcome="success"), "wait")
