"""`GET /metrics` over a real socket: each request, message and wait is counted, however it ends; few series."""

import json
import math
import os
import socket
import statistics
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import redis
from processes import Api, Worker, running_api, unused_port, wait_until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from proxy import Proxy
from scraping import Growth, families, scrape, value
from worker_app import FAIL, SLEEP

from project_contracts.integers import INTEGER_MULTIPLICATION

MULTIPLY = "/v1/project-worker/integer-multiplication"
TASK = INTEGER_MULTIPLICATION.name
QUEUE = INTEGER_MULTIPLICATION.queue
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
RANDOM_PATHS = 10_000
FOREIGN_TASKS = 200


@pytest.fixture
def growth(api: Api, client: httpx.Client) -> Growth:
    return Growth(api)


@pytest.fixture(scope="module")
def silent_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Proxy]]:
    """An API whose broker can fall silent, or go away."""
    proxy = Proxy(int(os.environ["RABBITMQ_PORT"]))
    log = tmp_path_factory.mktemp("silent-broker") / "log"
    settings = {"RABBITMQ_PORT": proxy.port, "PUBLISH_TIMEOUT_SECONDS": "0.5"}
    try:
        with running_api(log, **settings) as running:
            yield running, proxy
    finally:
        proxy.close()


def test_every_answer_is_counted_under_its_route_and_status(
    api: Api, client: httpx.Client, growth: Growth
) -> None:
    good = {"multiplicand": 6, "multiplier": 7}
    requests: list[tuple[str, str, dict[str, object], str, int]] = [
        ("POST", f"{MULTIPLY}/async", {"json": good}, f"{MULTIPLY}/async", 202),
        ("POST", MULTIPLY, {"json": good}, MULTIPLY, 200),
        ("POST", MULTIPLY, {"json": {"multiplicand": FAIL, "multiplier": 7}}, MULTIPLY, 502),
        ("POST", MULTIPLY, {"json": {"multiplicand": "6"}}, MULTIPLY, 422),
        ("POST", MULTIPLY, {"content": b"{"}, MULTIPLY, 415),
        ("POST", MULTIPLY, {"json": {"integers": "1" * 300_000}}, MULTIPLY, 413),
        ("DELETE", MULTIPLY, {}, MULTIPLY, 405),
        ("GET", f"/v1/tasks/{uuid.uuid4()}", {}, "/v1/tasks/{task_id}", 404),
        ("GET", "/v1/cities/0/nearest", {}, "/v1/cities/{geonameid}/nearest", 422),
        ("GET", f"/v1/{uuid.uuid4()}", {}, "__unmatched__", 404),
        ("PROPFIND", "/health/live", {}, "/health/live", 405),
    ]
    times = 3
    for method, path, content, _, status in requests * times:
        answer = client.request(method, path, **content)  # type: ignore[arg-type]  # one of httpx' many
        assert answer.status_code == status, (path, answer.text)
    for method, _, _, route, status in requests:
        labels = {"method": "__other__" if method == "PROPFIND" else method, "route": route}
        assert growth.of("http_requests_total", **labels, status=str(status)) == times, (labels, status)
        # Others may have had the same class of status.
        status_class = f"{status // 100}xx"
        duration = growth.of("http_request_duration_seconds_count", **labels, status_class=status_class)
        assert duration >= times, (labels, status)
    assert growth.of("http_response_size_bytes_count", route=f"{MULTIPLY}/async") == times
    assert growth.of("http_request_size_bytes_sum", route=f"{MULTIPLY}/async") == times * len(
        httpx.Request("POST", api.url, json=good).content
    )
    assert growth.of("http_exceptions_total", route=MULTIPLY, exception="TaskFailed") == times
    assert value(scrape(api), "http_requests_in_progress") == 1  # the scrape itself


def test_messages_waits_and_results_are_counted(api: Api, client: httpx.Client, growth: Growth) -> None:
    tasks, failures, timeouts = 20, 3, 2

    def send(times: int, document: dict[str, int], status: int, wait: int = 25) -> float:
        """Send tasks and wait for them; return how long that took in all."""
        patient = {"Prefer": f"wait={wait}"}
        answers = [client.post(MULTIPLY, json=document, headers=patient, timeout=60) for _ in range(times)]
        assert {answer.status_code for answer in answers} == {status}
        return sum(answer.elapsed.total_seconds() for answer in answers)

    ended_after = send(tasks, {"multiplicand": 6, "multiplier": 7}, 200)
    ended_after += send(failures, {"multiplicand": FAIL, "multiplier": 7}, 502)
    timed_out_after = send(timeouts, {"multiplicand": SLEEP, "multiplier": 20_000}, 504, wait=1)
    sent = tasks + failures + timeouts
    outcomes = {"task": TASK, "queue": QUEUE}
    assert growth.of("celery_producer_messages_total", **outcomes, outcome="ok") == sent
    assert growth.of("celery_producer_messages_total") == sent
    assert growth.of("celery_producer_publish_duration_seconds_count", queue=QUEUE, outcome="ok") == sent
    assert growth.of("celery_producer_message_size_bytes_count", task=TASK) == sent
    assert 300 < growth.of("celery_producer_message_size_bytes_sum", task=TASK) / sent < 3000
    waits = "celery_result_wait_duration_seconds"
    assert growth.of(f"{waits}_count", task=TASK, outcome="success") == tasks
    assert growth.of(f"{waits}_count", task=TASK, outcome="failure") == failures
    assert growth.of(f"{waits}_count", task=TASK, outcome="timeout") == timeouts
    assert timeouts <= growth.of(f"{waits}_sum", task=TASK, outcome="timeout") < timed_out_after
    assert growth.of("celery_producer_revokes_total", task=TASK, reason="timeout") == timeouts
    assert growth.of("celery_result_delivery_lag_seconds_count", task=TASK) == tasks + failures
    assert 0 <= growth.of("celery_result_delivery_lag_seconds_sum", task=TASK) < ended_after
    now = scrape(api)
    assert value(now, "celery_result_waiters") == 0
    assert value(now, "celery_producer_connected") == 1


def test_who_waits_is_seen_and_who_cancels(api: Api, client: httpx.Client, growth: Growth) -> None:
    slow = {"multiplicand": SLEEP, "multiplier": 30_000}
    accepted = client.post(f"{MULTIPLY}/async", json=slow).json()["id"]
    waiting = threading.Thread(target=lambda: client.get(f"/v1/tasks/{accepted}?wait=25", timeout=60))
    waiting.start()
    wait_until(lambda: value(scrape(api), "celery_result_waiters") == 1, 20, "the waiter is seen")
    # It is not heard of before that: it is asked for, too.
    wait_until(lambda: growth.of("celery_result_polls_total") > 0, 20, "its result is asked for")
    assert client.delete(f"/v1/tasks/{accepted}").status_code == 200
    waiting.join()
    assert value(scrape(api), "celery_result_waiters") == 0
    cancelled = sum(
        growth.of("celery_producer_revokes_total", task=name, reason="cancel") for name in (TASK, "__other__")
    )
    assert cancelled == 1


def test_a_broker_that_is_silent_or_away_is_counted(silent_broker: tuple[Api, Proxy], worker: Worker) -> None:
    api, proxy = silent_broker
    send = {"json": {"multiplicand": 6, "multiplier": 7}}
    assert httpx.post(f"{api.url}{MULTIPLY}/async", **send).status_code == 202  # type: ignore[arg-type]
    growth = Growth(api)
    messages = {"task": TASK, "queue": QUEUE}
    proxy.keep_from_clients()
    assert httpx.post(f"{api.url}{MULTIPLY}/async", **send, timeout=20).status_code == 503  # type: ignore[arg-type]
    assert growth.of("celery_producer_messages_total", **messages, outcome="timeout") == 1
    proxy.cut()
    wait_until(lambda: value(scrape(api), "celery_producer_connected") == 0, 20, "the loss is seen")
    wait_until(
        lambda: httpx.post(f"{api.url}{MULTIPLY}/async", **send, timeout=20).status_code == 503,  # type: ignore[arg-type]
        20,
        "sends are refused",
    )
    assert growth.of("celery_producer_messages_total", **messages, outcome="error") >= 1
    proxy.speak()
    wait_until(
        lambda: httpx.post(f"{api.url}{MULTIPLY}/async", **send, timeout=20).status_code == 202,  # type: ignore[arg-type]
        30,
        "sends go out again",
    )
    assert value(scrape(api), "celery_producer_connected") == 1
    assert growth.of("celery_producer_reconnects_total") >= 1
    assert growth.of("http_exceptions_total", route=f"{MULTIPLY}/async", exception="PublishTimeout") >= 1


def test_openmetrics_has_exemplars_that_name_a_request(api: Api, client: httpx.Client) -> None:
    request_id = uuid.uuid4().hex
    # Longer than an exemplar may be: it is left out, and nothing breaks.
    assert client.get("/v1/imports/0", headers={"X-Request-ID": "x" * 128}).status_code == 422

    def is_named() -> bool:
        client.get("/v1/countries", headers={"X-Request-ID": request_id})
        answer = client.get("/metrics", headers={"Accept": OPENMETRICS})
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        exemplars = [
            sample.exemplar.labels
            for family in parse_openmetrics(answer.text)  # type: ignore[no-untyped-call]
            for sample in family.samples
            if sample.exemplar and sample.labels.get("route") == "/v1/countries"
        ]
        return {"trace_id": request_id} in exemplars

    wait_until(is_named, 20, "a bucket takes the exemplar, once a second")


def answers(api: Api, requests: Iterable[bytes]) -> Counter[int]:
    """Send requests over one connection, many at a time; return how many were answered with each status."""
    statuses: Counter[int] = Counter()
    sent = list(requests)
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as connection:
        stream = connection.makefile("rb")
        for start in range(0, len(sent), 100):
            batch = sent[start : start + 100]
            connection.sendall(b"".join(batch))
            for _ in batch:
                statuses[int(stream.readline().split()[1])] += 1
                head = iter(stream.readline, b"\r\n")
                length = next(int(line.split(b":")[1]) for line in head if line.startswith(b"content-length:"))
                for _ in head:
                    pass
                stream.read(length)
    return statuses


def test_what_clients_make_up_makes_no_series(api: Api, client: httpx.Client) -> None:
    def strange(count: int) -> Iterator[bytes]:
        for number in range(count):
            method = ("GET", "POST", "PURGE", "PROPFIND", "M-SEARCH")[number % 5]
            path = (f"/{number}", f"/v1/{uuid.uuid4()}/{number}", f"/v1/tasks/{uuid.uuid4()}")[number % 3]
            yield f"{method} {path} HTTP/1.1\r\nhost: x{number}\r\ncontent-length: 0\r\n\r\n".encode()

    answers(api, strange(15))
    scrape(api)
    before = scrape(api)
    assert answers(api, strange(RANDOM_PATHS)).keys() == {404, 405}
    after = scrape(api)
    # The scrape's own buckets may be new.
    new = [name for name in after.keys() - before.keys() if ("route", "/metrics") not in name[1]]
    assert new == []
    requests = value(after, "http_requests_total") - value(before, "http_requests_total")
    assert requests == RANDOM_PATHS + 1  # a scrape
    labels = Counter(label for _, having in after for label, _ in having)
    assert not {"task_id", "pid", "path", "hostname", "message"} & labels.keys()


def test_names_that_somebody_stored_make_no_series(api: Api, client: httpx.Client) -> None:
    """Results of any program on this Redis can be asked for, under the names that it gave its tasks."""
    with redis.Redis(
        host=os.environ["REDIS_HOST"],
        port=int(os.environ["REDIS_PORT"]),
        password=os.environ["REDIS_PASSWORD"],
        db=int(os.environ["REDIS_DB"]),
    ) as store:

        def ask(number: int) -> None:
            task_id = str(uuid.uuid4())
            meta = {"task_id": task_id, "name": f"made-up-{number}", "status": "SUCCESS", "result": 1}
            store.set(
                f"celery-task-meta-{task_id}", json.dumps(meta | {"traceback": None, "children": []}), ex=60
            )
            assert client.get(f"/v1/tasks/{task_id}?wait=20").json()["result"] == 1

        ask(0)
        before = scrape(api)
        for number in range(1, FOREIGN_TASKS + 1):
            ask(number)
    after = scrape(api)
    # The scrape's own buckets may be new.
    assert [name for name in after.keys() - before.keys() if ("route", "/metrics") not in name[1]] == []
    waits = {"task": "__other__", "outcome": "success"}
    name = "celery_result_wait_duration_seconds_count"
    assert value(after, name, **waits) - value(before, name, **waits) == FOREIGN_TASKS


def test_many_scrapes_at_once_under_load_are_whole(api: Api, client: httpx.Client) -> None:
    """Each is cut into slices that others' requests come between: none may lose, or mix, a line."""

    def load() -> None:
        with httpx.Client(base_url=api.url, timeout=20) as own:
            while not ended.is_set():
                assert own.post(f"{MULTIPLY}/async", json={"multiplicand": 6, "multiplier": 7}).status_code == 202

    def look(_: int) -> tuple[float, int]:
        answer = httpx.get(f"{api.url}/metrics", headers={"Accept": OPENMETRICS}, timeout=20)
        # It refuses what is cut, doubled, or out of its family.
        found = [s for family in parse_openmetrics(answer.text) for s in family.samples]  # type: ignore[no-untyped-call]
        accepted = {"route": f"{MULTIPLY}/async", "status": "202", "method": "POST"}
        return next(s.value for s in found if s.name == "http_requests_total" and s.labels == accepted), len(
            found
        )

    ended = threading.Event()
    loads = [threading.Thread(target=load) for _ in range(2)]
    for one in loads:
        one.start()
    try:
        rounds = []
        with ThreadPoolExecutor(4) as lookers:
            for _ in range(3):
                rounds.append(list(lookers.map(look, range(4))))
    finally:
        ended.set()
        for one in loads:
            one.join()
    counts = [max(count for count, _ in each) for each in rounds]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert min(series for each in rounds for _, series in each) > 500


def test_the_database_and_the_loop_are_measured(api: Api, client: httpx.Client, growth: Growth) -> None:
    for _ in range(5):
        assert client.get("/v1/countries").status_code == 200
    now = scrape(api)
    assert growth.of("db_client_connection_wait_time_seconds_count", pool="project-api") >= 5
    assert value(now, "db_client_connection_max", pool="project-api") == 10
    states = {state: value(now, "db_client_connection_count", state=state) for state in ("used", "idle")}
    assert 1 <= sum(states.values()) <= 10
    assert value(now, "outbox_messages", state="waiting") == 0
    assert value(now, "app_build_info", version="0.1.0") == 1
    assert value(now, "process_open_fds") > 5
    wait_until(lambda: growth.of("asyncio_event_loop_lag_seconds_count") >= 3, 20, "the loop is looked at")


def test_a_database_that_is_away_is_seen(tmp_path: Path) -> None:
    with running_api(tmp_path / "log", POSTGRES_PORT=unused_port()) as api:
        assert httpx.get(f"{api.url}/v1/countries", timeout=10).status_code == 503
        seen = scrape(api)
    failed = {"route": "/v1/countries", "exception": "DatabaseUnavailable"}
    assert value(seen, "http_exceptions_total", **failed) == 1
    assert math.isnan(value(seen, "outbox_messages", state="waiting"))
    assert math.isnan(value(seen, "outbox_oldest_message_age_seconds"))


def test_scrapes_hold_no_request_up(api: Api, client: httpx.Client) -> None:
    """Nor the loop: of a request that does nothing, the time is the loop's."""
    ended = threading.Event()
    scrapes: list[float] = []

    def timed(get: Callable[[], httpx.Response]) -> float:
        started = time.perf_counter()
        assert get().status_code == 200
        return time.perf_counter() - started

    def keep_scraping() -> None:
        with httpx.Client(base_url=api.url, headers={"Accept": OPENMETRICS}, timeout=20) as own:
            while not ended.is_set():
                scrapes.append(timed(lambda: own.get("/metrics")))

    scrapers = [threading.Thread(target=keep_scraping) for _ in range(2)]
    for scraper in scrapers:
        scraper.start()
    times = []
    try:
        for _ in range(100):
            times.append(timed(lambda: client.get("/health/live")))
            time.sleep(0.01)
    finally:
        ended.set()
        for scraper in scrapers:
            scraper.join()
    # It would wait for one scrape, or two, were they made at one go. A busy machine slows both down.
    assert statistics.median(times) < statistics.median(scrapes) / 3


def test_both_formats_say_the_same(api: Api, client: httpx.Client) -> None:
    for number in range(30):
        client.get(f"/v1/countries/{number}")
    text = {family.name for family in families(api)}
    answer = client.get("/metrics", headers={"Accept": OPENMETRICS})
    assert answer.text.endswith("# EOF\n")
    assert answer.text.count("# EOF") == 1
    openmetrics = {
        # OpenMetrics names a family without its suffix.
        family.name + ("_info" if family.type == "info" else "")
        for family in parse_openmetrics(answer.text)  # type: ignore[no-untyped-call]
    }
    assert text == openmetrics
    assert "http_requests" in text
    for line in ("# TYPE http_requests counter", "# HELP http_request_duration_seconds "):
        assert answer.text.count(line) == 1
