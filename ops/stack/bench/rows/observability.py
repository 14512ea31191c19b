"""Observability: what metrics, log lines and ids cost, the API and the worker; what asking for the metrics costs.

How it works: two APIs run during the whole row, as `./stack up` starts them with `LOG_FORMAT=json`; one of them
has nothing that observes it (`benchmarks/product/unobserved.py`). No worker runs, so that each 202 is found as a
message in the queue. The figures are asked for as Prometheus does, at rest and while the load goes on.

What belongs here: that row; the worker's turns are in `observed_worker.py`.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from stack.bench import product
from stack.bench.contenders import API, LIMIT, UNOBSERVED, WORKER, Contender, ContenderError
from stack.bench.lab import Lab
from stack.bench.results import percentile
from stack.bench.row import Column, Found, Row, Scale, Standing, Table, Turn
from stack.bench.rows import observed_worker
from stack.servers import projects

POST, SCRAPE = "POST -> 202", "GET /metrics"
_DATABASE = "bench_observability"
_CONNECTIONS = 50
_PATH = "/v1/project-worker/integer-multiplication/async"
_BODY = '{"multiplicand": 6, "multiplier": 7}'
_OPENMETRICS = "application/openmetrics-text; version=1.0.0"
_PATIENCE = 60.0  # s for the load generator's answer
_PAUSE = 0.1  # s between two scrapes: far more often than Prometheus asks


def _turns(scale: Scale) -> list[Turn]:
    seconds = scale.pick(1.0, 4.0)
    posts = [
        Turn(
            contender=contender.name,
            case=POST,
            round=number,
            act=partial(_post, contender=contender, seconds=seconds),
        )
        for number in range(scale.pick(1, 7))
        for contender in (API, UNOBSERVED)
    ]
    # Last: by then the API has series for all that it does here.
    scrapes = [
        Turn(contender=API.name, case=SCRAPE, round=number, act=partial(_scrape, seconds=seconds))
        for number in range(scale.pick(1, 3))
    ]
    return [*posts, *scrapes]


def _post(lab: Lab, standing: Standing, *, contender: Contender, seconds: float) -> Found:
    served = _served(standing, contender)
    lab.broker.forget(projects.QUEUE)
    before = product.processor_time(served.pid)
    answer = lab.ask(LIMIT, "load", **_load(served.port, seconds))
    took = product.processor_time(served.pid) - before
    if answer["refused"]:
        raise ContenderError(f"{answer['refused']} requests were not answered with 202")
    lab.broker.require(projects.QUEUE, answer["total"])
    latencies = answer["latencies"]
    yield (
        POST,
        {
            "requests/s": len(latencies) / answer["seconds"],
            "CPU us/request": took / answer["total"] * 1e6,
            "p50 ms": percentile(latencies, 0.5) * 1e3,
            "p99 ms": percentile(latencies, 0.99) * 1e3,
            "peak MB": product.peak_memory(served.pid) / 1e6,
        },
    )


def _scrape(lab: Lab, standing: Standing, *, seconds: float) -> Found:
    served = _served(standing, API)
    lab.broker.forget(projects.QUEUE)
    api = product.Api(served.port)
    at_rest = [_timed(api) for _ in range(5)]
    with lab.start(LIMIT, "load", **_load(served.port, seconds)) as load:
        # The first second is the generator's start and the warm-up.
        time.sleep(min(1.0, seconds / 2))
        end = time.monotonic() + seconds / 2
        under_load = []
        while time.monotonic() < end:
            under_load.append(_timed(api))
            time.sleep(_PAUSE)
        answer = load.answer(_PATIENCE)
    if answer["refused"]:
        raise ContenderError(f"{answer['refused']} requests were not answered with 202")
    page = api.get("/metrics", accept=_OPENMETRICS).body
    yield (
        SCRAPE,
        {
            "series": sum(not line.startswith(b"#") for line in page.splitlines()),
            "kB": len(page) / 1e3,
            "ms at rest": percentile(at_rest, 0.5) * 1e3,
            "ms under load": percentile(under_load, 0.5) * 1e3,
        },
    )


def _timed(api: product.Api) -> float:
    begin = time.perf_counter()
    api.get("/metrics", accept=_OPENMETRICS)
    return time.perf_counter() - begin


def _load(port: int, seconds: float) -> dict[str, object]:
    return {"port": port, "path": _PATH, "body": _BODY, "levels": (_CONNECTIONS,), "seconds": seconds}


def _served(standing: Standing, contender: Contender) -> product.Served:
    port, _, pid = standing[contender.name].partition(" ")
    return product.Served(port=int(port), pid=int(pid))


@contextmanager
def _standing(lab: Lab, _: Scale) -> Iterator[Standing]:
    database = lab.database.make(_DATABASE)
    with ExitStack() as stack:
        served = {
            contender.name: stack.enter_context(product.api(lab, database, contender, LOG_FORMAT="json"))
            for contender in (API, UNOBSERVED)
        }
        yield {name: f"{one.port} {one.pid}" for name, one in served.items()}


ROW = Row(
    name="observability",
    title="Observability: what it costs",
    conditions="API: `POST /v1/project-worker/integer-multiplication/async`, answered 202 when the broker has "
    "confirmed the task (a durable quorum queue): project-api as `./stack up` starts it, with its "
    "figures, one log line in JSON for each request, and an id of the request that travels with the "
    f"message. The limit is the same API with none of these. {_CONNECTIONS} keep-alive connections, each "
    "with one request at a time, from a load generator in another process on the same cores. No worker; "
    "every 202 is found as a message. CPU is that of the API's process. GET /metrics: OpenMetrics, of an "
    "API that has served all this, and while it does. Worker: project-worker as `./stack up` starts it, "
    "two processes, 5000 queued no-op sums (quick: 1000); the rate is that from the first tenth of the "
    "results to the last; observed: its metrics, which must have counted every task, a line in JSON per "
    "task, the request's id.",
    contenders=(API, UNOBSERVED, WORKER, LIMIT),
    turns=lambda scale: [*_turns(scale), *observed_worker.turns(scale)],
    tables=(
        Table(
            title=f"{POST}, {_CONNECTIONS} connections",
            columns=(
                Column(title="requests/s", case=POST, metric="requests/s"),
                Column(title="CPU µs/request", case=POST, metric="CPU us/request"),
                Column(title="p50 ms", case=POST, metric="p50 ms", digits=1),
                Column(title="p99 ms", case=POST, metric="p99 ms", digits=1),
                Column(title="peak MB", case=POST, metric="peak MB"),
            ),
        ),
        Table(
            title=SCRAPE,
            columns=(
                Column(title="series", case=SCRAPE, metric="series"),
                Column(title="kB", case=SCRAPE, metric="kB"),
                Column(title="ms at rest", case=SCRAPE, metric="ms at rest", digits=1),
                Column(title="ms under load", case=SCRAPE, metric="ms under load", digits=1),
            ),
        ),
        observed_worker.TABLE,
    ),
    plots={"requests/s": Column(title="requests/s", case=POST, metric="requests/s")},
    standing=_standing,
)
