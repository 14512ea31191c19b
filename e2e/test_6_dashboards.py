"""Every panel of every dashboard, on a stack under a mixed load: each expression finds a number in Prometheus.

How it works: the files that Grafana reads are read here, and Prometheus is asked what Grafana would ask it. What
is empty on a healthy stack, by the panel's own words, is filled by faults; and what went wrong then is counted
where a dashboard says that it is. Only what needs containers is left out: those panels say so.
"""

import json
import math
import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import promql_parser as promql
import psutil
import pytest
from clone import MULTIPLY, Clone, wait_until

HEALTHY = "Empty when healthy:"
DOCKER = "Docker only:"
WORKED = ("project-worker", "celery_delayed_", "dead-letters.inbox")
"""How the names of the queues begin that are empty when nothing is left to do."""
LOST = "journey: Losses over the time shown"
LOST_HERE = (
    "expired",
    "revoked",
    "time limit",
    "worker lost",
    "rejected",
    "failed",
    "unknown task",
    "waited in vain",
    "dead letters now",
)
"""Its bars that this file's faults fill; for the others the broker would have to refuse messages."""
OLDER = {
    "pg_stat_bgwriter_buffers_backend_total",
    "pg_stat_bgwriter_buffers_checkpoint_total",
    "rabbitmq_alarms_file_descriptor_limit",
}
"""What newer servers, from PostgreSQL 17 and RabbitMQ 4.3 on, no longer export."""
NEWER = {"pg_stat_checkpointer_buffers_written_total"}
"""What they export instead. Where that can be, a panel asks for either."""
CITY = {
    "geonameid": 2147483020,
    "name": "Panneau",
    "country_code": "MC",
    "latitude": 43.73,
    "longitude": 7.42,
    "timezone": "Europe/Monaco",
}
COUNTRY = {
    "geonameid": 2993457,
    "code": "MC",
    "code3": "MCO",
    "numeric_code": 492,
    "name": "Monaco",
    "continent": "EU",
}
CSV = """geonameid,name,country_code,latitude,longitude,timezone,population
2147483021,Nouvelle,MC,43,7,Europe/Paris,1
"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a panel asks."""

    dashboard: str
    panel: str
    description: str
    legend: str
    expr: str
    is_instant: bool

    @property
    def name(self) -> str:
        return f"{self.dashboard}: {self.panel}"


class Watched:
    """A stack whose dashboards are looked at, over the time since it was first loaded here."""

    def __init__(self, stack: Clone) -> None:
        self.stack = stack
        self.unexpected: list[str] = []
        self._enough = threading.Event()
        self._load = threading.Thread(target=mix, args=(stack, self._enough, self.unexpected))
        self.http = httpx.Client(timeout=30)  # one: making a client takes longer than most questions
        self.since = time.time()
        self.prometheus = f"http://127.0.0.1:{stack.ports['PROMETHEUS_PORT']}/api/v1"
        self.questions = [
            Question(
                dashboard=path.stem,
                panel=panel["title"],
                description=panel["description"],
                legend=target["legendFormat"],
                expr=target["expr"],
                is_instant=target.get("instant", False),
            )
            for path in sorted(stack.folder.glob("infra/grafana/dashboards/*.json"))
            for panel in json.loads(path.read_text())["panels"]
            for target in panel.get("targets", ())
        ]

    def load(self) -> None:
        """Load the stack from now on; `unexpected` is what it has answered that a healthy one would not."""
        self._load.start()

    def rest(self) -> None:
        """Load it no more, and wait until it has nothing left to do."""
        self._enough.set()
        self._load.join()
        wait_until(self.is_idle, 180, "no task runs, waits or is delayed")

    def ask(self, path: str, **words: str) -> Any:
        answer = self.http.post(f"{self.prometheus}/{path}", data=words).json()
        assert answer["status"] == "success", (words, answer)
        return answer["data"]

    def numbers(self, question: Question) -> list[float]:
        """Return the numbers that a question finds; NaN is none."""
        now = time.time()
        shown = int(now - self.since) + 30
        # As Grafana fills them in, which scrapes every 5 s.
        expr = question.expr.replace("$__rate_interval", "20s").replace("$__range", f"{shown}s")
        if question.is_instant:
            series = self.ask("query", query=expr, time=f"{now}")["result"]
        else:
            span = {"start": f"{now - shown}", "end": f"{now}", "step": "5"}
            series = self.ask("query_range", query=expr, **span)["result"]
        labels = set(re.findall(r"{{(\w+)}}", question.legend))
        assert all(labels <= set(one["metric"]) for one in series), f"{question.name}: {question.legend}"
        points = [point for one in series for point in one.get("values", [one.get("value")])]
        return [number for number in (float(text) for _, text in points) if math.isfinite(number)]

    def exported(self) -> set[str]:
        """Return the names of all metrics that Prometheus has had a number of."""
        return set(self.http.get(f"{self.prometheus}/label/__name__/values").json()["data"])

    def empty(self, questions: Sequence[Question]) -> dict[str, list[str]]:
        """Return the panels of which an expression finds nothing, with those expressions."""
        found: dict[str, list[str]] = {}
        for question in questions:
            if not self.numbers(question):
                found.setdefault(question.name, []).append(question.expr)
        return found

    def send(self, task: str, payload: object, **headers: object) -> str:
        """Publish a task as no client of the API could; return its id."""
        task_id = str(uuid.uuid4())
        answer = self.broker(
            "POST",
            "exchanges",
            "project-worker/publish",
            json={
                "routing_key": "project-worker",
                "payload": json.dumps(payload),
                "payload_encoding": "string",
                "properties": {
                    "content_type": "application/json",
                    "content_encoding": "utf-8",
                    "correlation_id": task_id,
                    "headers": {"id": task_id, "task": f"project-worker.{task}", "lang": "py", **headers},
                },
            },
        )
        assert answer == {"routed": True}
        return task_id

    def broker(self, method: str, kind: str, path: str = "", **words: Any) -> Any:
        """Ask RabbitMQ about what it has of a kind in the stack's virtual host; return its answer."""
        settings = self.stack.settings()
        answer = self.http.request(
            method,
            f"http://127.0.0.1:{self.stack.ports['RABBITMQ_MANAGEMENT_PORT']}"
            f"/api/{kind}/{quote(settings['RABBITMQ_VHOST'], safe='')}/{path}".rstrip("/"),
            auth=(settings["RABBITMQ_USER"], settings["RABBITMQ_PASSWORD"]),
            **words,
        )
        return answer.raise_for_status().json()

    def of_the_worker(self, series: str) -> float:
        """Return the sum of a metric of the worker as it is now; `series` is a pattern of its name and labels."""
        page = self.http.get(f"http://127.0.0.1:{self.stack.ports['WORKER_METRICS_PORT']}/metrics").text
        return sum(float(value) for value in re.findall(rf"^{series} (\S+)$", page, re.MULTILINE))

    def is_idle(self) -> bool:
        """Whether no task runs, and none waits, is delayed, or is to be parked."""
        waiting = {
            queue["name"]
            for queue in self.broker("GET", "queues")
            if queue["name"].startswith(WORKED) and queue.get("messages")
        }
        return not waiting and not self.of_the_worker("celery_worker_tasks_running{.*}")

    def ended(self, state: str) -> float:
        """Return how many deliveries have ended so."""
        return self.of_the_worker(rf'celery_worker_tasks_finished_total{{.*state="{state}".*}}')


def mix(stack: Clone, ended: threading.Event, unexpected: list[str]) -> None:
    """Ask for something of each kind, again and again; while a fault lasts, answers may be 5xx or missing."""
    with httpx.Client(base_url=stack.url, timeout=60) as http:
        while not ended.wait(0.2):
            with suppress(httpx.TransportError):  # a fault: the API is away
                ask_for_everything(http, unexpected)


def ask_for_everything(http: httpx.Client, unexpected: list[str]) -> None:
    body = {"multiplicand": 6, "multiplier": 7}
    for path, payload in (
        (MULTIPLY, body),
        ("/v1/project-worker/integers-sum", {"integers": [1, 2, 3]}),
        ("/v1/project-worker/worker-information", None),
        ("/v1/workflows/chain", {"integer": 2, "n": 8}),
        ("/v1/workflows/group", {"integer": 2, "n": 8}),
        ("/v1/workflows/chord", {"integer": 2, "n": 8}),
    ):
        answer = http.post(path, json=payload)
        if answer.status_code not in {200, 503, 504}:
            unexpected.append(f"{path}: {answer.status_code} {answer.text}")
    lines = [{"label": "Pen", "quantity": "1", "unit_price": "19.99"}]
    http.post(
        "/v1/project-worker/invoice-total",
        json={"invoice": {"issued": "2026-11-22T23:30:00+01:00", "due": "2026-12-22", "lines": lines}},
    )
    http.post("/v1/workflows/world-statistics", headers={"Prefer": "wait=1"})  # 504 unless it is quick
    accepted = http.post(f"{MULTIPLY}/async", json=body)
    if accepted.status_code == 202:
        http.get(accepted.headers["location"] + "/result")
    cancelled = http.post("/v1/workflows/chain/async", json={"integer": 1, "n": 100})
    if cancelled.status_code == 202:
        http.delete(cancelled.headers["location"])
    created = http.post("/v1/cities", json=CITY)  # and a message in the outbox: its country's statistics
    if created.status_code == 201:
        http.get(created.headers["location"])
    http.get("/v1/cities", params={"country": "MC", "limit": 3})
    http.delete(f"/v1/cities/{CITY['geonameid']}")
    http.post("/v1/imports", content=CSV.encode(), headers={"Content-Type": "text/csv"})
    http.post(MULTIPLY, json={"multiplicand": "six"})  # 422
    http.get("/v1/cities/1")  # 404
    http.put("/health/live")  # 405
    http.get(f"/nowhere/{uuid.uuid4()}")


@pytest.fixture(scope="module")
def watched(clone: Clone, first_up: str) -> Iterator[Watched]:
    """The stack, under a mixed load until it is told to rest."""
    made = Watched(clone)
    there = made.http.get(f"{clone.url}/v1/countries", params={"code": "MC"}).json()["items"]
    if not there:
        assert made.http.post(f"{clone.url}/v1/countries", json=COUNTRY).status_code == 201
    made.load()
    try:
        yield made
    finally:
        made.rest()
        left = [f"cities/{CITY['geonameid']}", "cities/2147483021", "dead-letters?confirm=all"]
        for path in left if there else [*left, f"countries/{COUNTRY['geonameid']}"]:
            made.http.delete(f"{clone.url}/v1/{path}")
        made.http.close()


def lose_children(watched: Watched) -> None:
    """End the worker's processes while they run something; then have the worker end one at its task's limit."""
    asia = [[], {"continent": "AS"}, {}]  # takes a process 2 s when it is its first, most of them without Python

    def kill_children() -> None:
        for child in watched.stack.program(" tasks:app worker").children():
            with suppress(psutil.NoSuchProcess):
                child.kill()

    def is_lost() -> bool:
        watched.send("continent_statistics", asia)
        if watched.of_the_worker("celery_worker_tasks_running{.*continent_statistics.*}"):
            kill_children()
        return watched.ended("worker_lost") > lost

    def is_limited() -> bool:
        kill_children()
        # The soft limit is an exception, which a task that is not in Python now comes too late for.
        sent = watched.send("continent_statistics", asia, timelimit=[0.02, 0.01])
        url = f"{watched.stack.url}/v1/tasks/{sent}"
        # It succeeds where what was killed before comes back first, and has read the data for it.
        wait_until(lambda: watched.http.get(url).json().get("status") in ("FAILURE", "SUCCESS"), 60, "it ends")
        return watched.ended("time_limit") > limited

    lost, limited = watched.ended("worker_lost"), watched.ended("time_limit")
    wait_until(is_lost, 90, "a task's process is lost")
    wait_until(is_limited, 120, "a task is over its time limit")


def metrics_of(expr: str) -> set[str]:
    """Return what an expression reads."""
    found: set[str] = set()
    nodes: list[Any] = [promql.parse(expr.replace("$__rate_interval", "20s").replace("$__range", "60s"))]
    while nodes:
        match nodes.pop():
            case promql.VectorSelector() as selector:
                found.add(selector.name or "")
            case promql.MatrixSelector() as selector:
                nodes.append(selector.vector_selector)
            case promql.Call() as call:
                nodes += call.args
            case promql.BinaryExpr() as operation:
                nodes += [operation.lhs, operation.rhs]
            case (
                promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr() as outer
            ):
                nodes.append(outer.expr)
            case leaf:
                assert isinstance(leaf, promql.NumberLiteral | promql.StringLiteral), leaf
    return found


def natively(watched: Watched) -> list[Question]:
    return [one for one in watched.questions if DOCKER not in one.description]


def test_every_expression_of_every_panel_finds_a_number(watched: Watched) -> None:
    asked = [one for one in natively(watched) if HEALTHY not in one.description]
    assert len({one.dashboard for one in asked}) == 9
    assert len(asked) > 150
    started = time.monotonic()
    while missing := watched.empty(asked):
        assert time.monotonic() - started < 180, missing
        time.sleep(1)
    seconds = time.monotonic() - started
    print(
        f"{len(asked)} expressions of {len({one.name for one in asked})} panels: all found after {seconds:.0f} s"
    )
    assert not watched.unexpected  # later, faults are made


def test_few_panels_are_empty_when_healthy_and_a_fault_fills_each(watched: Watched) -> None:
    panels = {one.name for one in natively(watched)}
    empty = {one.name for one in natively(watched) if HEALTHY in one.description}
    assert len(empty) <= len(panels) / 10
    print(f"{len(empty)} of {len(panels)} panels are empty when healthy: {', '.join(sorted(empty))}")

    watched.send("mutliplication", [[], {}, {}])  # no such task
    watched.send("integer_multiplication", [])  # no arguments at all: rejected
    watched.send("integer_multiplication", [[], {"multiplicand": "six"}, {}])  # fails
    watched.send("integer_multiplication", [[6, 7], {}, {}], expires="2026-01-01T00:00:00+00:00")
    lose_children(watched)
    with watched.stack.stopped("postgres"):
        retried = watched.ended("retry")
        watched.send("country_statistics", [[], {"country_code": "MC"}, {}])
        wait_until(lambda: watched.ended("retry") > retried, 60, "a task without its database is retried")
        assert watched.http.get(f"{watched.stack.url}/v1/cities").status_code == 503
    with watched.stack.stopped("project-worker"):
        answer = watched.http.post(
            watched.stack.url + MULTIPLY,
            json={"multiplicand": 6, "multiplier": 7},
            headers={"Prefer": "wait=2"},
        )
        assert answer.status_code == 504

    started = time.monotonic()
    while missing := watched.empty(natively(watched)):
        assert time.monotonic() - started < 120, missing
        time.sleep(1)
    losses = {one.legend: one for one in watched.questions if one.name == LOST}
    started = time.monotonic()
    while untold := [loss for loss in LOST_HERE if sum(watched.numbers(losses[loss])) == 0]:
        assert time.monotonic() - started < 120, untold
        time.sleep(1)


def test_every_name_on_a_dashboard_is_exported(watched: Watched) -> None:
    names = {name for one in natively(watched) for name in metrics_of(one.expr)}
    assert len(names) > 100
    assert names - watched.exported() - OLDER - NEWER == set()


def test_every_dashboard_is_drawn(watched: Watched) -> None:
    watched.rest()  # drawing needs the processors
    folder = watched.stack.folder / "pictures"
    said = watched.stack.must("dashboards", "--png", str(folder), "--minutes", "5", timeout=600)
    drawn = sorted(folder.glob("*.png"))
    assert {path.stem for path in drawn} == {one.dashboard for one in watched.questions}
    for path in drawn:
        assert f"wrote {path}" in said
        assert path.read_bytes().startswith(b"\x89PNG")
        assert 10_000 < path.stat().st_size < 300_000  # an empty figure has a tenth; larger is not for the docs
