"""The outbox: what a message costs the transaction that it is committed with, and how soon its task starts.

How it works: cities are created through the API, each with a message for its country's statistics. For the rate
no worker runs, so that every message is found in the queue; the other API is the same one, with an outbox that
takes nothing. For the delay a worker runs, each city is of another country, and the worker's own record says
when the task started; the clock of both ends is the machine's.

What belongs here: that row.
"""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial

from stack.bench import geonames, product
from stack.bench.contenders import API, LIMIT, NO_OUTBOX, PSQL, WORKER, Contender, ContenderError
from stack.bench.lab import Lab
from stack.bench.results import percentile
from stack.bench.row import Column, Found, Row, Scale, Standing, Table, Turn
from stack.servers import projects

RATE, DELAY = "commits", "delay"
_DATABASES = {API.name: "bench_outbox", NO_OUTBOX.name: "bench_no_outbox"}
_CITIES = 20_000
_CONNECTIONS = 20
_PACE = 25.0  # commits/s
COUNTRY_STATISTICS = "project-worker.country_statistics"
"""The task's name."""

_POLL = 0.02  # s
_TIMEOUT = 60.0  # s for everything that was committed to be sent, or to have run
_FIRST = itertools.count(100_000_000, 1_000_000)
"""Where the ids of a turn's cities begin: above those of GeoNames, nine digits each."""


def _city(geonameid: str, country: str) -> str:
    values = {"geonameid": 0, "name": "Benchmark", "country_code": country, "latitude": 48.5, "longitude": 2.5}
    text = json.dumps({**values, "population": 1000, "timezone": "Europe/Paris"})
    return text.replace('"geonameid": 0', f'"geonameid": {geonameid}')


def _turns(scale: Scale) -> list[Turn]:
    delay = partial(_delay, count=scale.pick(75, 240))
    rates = [
        Turn(
            contender=contender.name,
            case=RATE,
            round=number,
            act=partial(_rate, contender=contender, seconds=scale.pick(0.8, 3.0)),
        )
        for number in range(scale.pick(1, 5))
        for contender in (NO_OUTBOX, API)
    ]
    # The delay first: its worker declares the queue.
    return [
        *(Turn(contender=API.name, case=DELAY, round=number, act=delay) for number in range(scale.pick(1, 3))),
        *rates,
    ]


def _rate(lab: Lab, standing: Standing, *, contender: Contender, seconds: float) -> Found:
    lab.broker.forget(projects.QUEUE)
    before = _count(lab, contender)
    answer = lab.ask(
        LIMIT,
        "load",
        port=int(standing[contender.name]),
        path="/v1/cities",
        body=_city("NUMBER", "FR"),
        first=next(_FIRST),
        expected=201,
        levels=(_CONNECTIONS,),
        seconds=seconds,
    )
    late = _until_sent(lab, answer["total"]) if contender is API else 0.0
    if answer["refused"]:
        raise ContenderError(f"{answer['refused']} cities were not created")
    if (made := _count(lab, contender) - before) != answer["total"]:
        raise ContenderError(f"{answer['total']} cities were said to be created, {made} were")
    latencies = answer["latencies"]
    yield (
        RATE,
        {
            "commits/s": len(latencies) / answer["seconds"],
            "sustained/s": len(latencies) / (answer["seconds"] + late),
            "p50 ms": percentile(latencies, 0.5) * 1e3,
            "p99 ms": percentile(latencies, 0.99) * 1e3,
        },
    )


def _count(lab: Lab, contender: Contender) -> int:
    return int(lab.database.ask("SELECT count(*) FROM cities", _DATABASES[contender.name]))


def _until_sent(lab: Lab, count: int) -> float:
    """Wait until the queue holds so many messages; return how long that took, in s.

    Raises:
        ContenderError: It does not come to that many, or holds more.
    """
    begin = time.monotonic()
    while (found := lab.broker.count(projects.QUEUE)) < count:
        if time.monotonic() > begin + _TIMEOUT:
            raise ContenderError(f"{count} cities were created, {found} messages were sent")
        time.sleep(_POLL)
    took = time.monotonic() - begin
    lab.broker.require(projects.QUEUE, count)
    return took


def _delay(lab: Lab, standing: Standing, *, count: int) -> Found:
    api = product.Api(int(standing[API.name]))
    countries = lab.database.ask("SELECT code FROM countries ORDER BY code", _DATABASES[API.name])
    answered: dict[str, float] = {}
    took = []
    with product.worker(lab, _DATABASES[API.name]):
        begin, first = time.time(), next(_FIRST)
        for number, country in enumerate(countries.split()[:count]):
            time.sleep(max(0.0, begin + number / _PACE - time.time()))
            sent = time.time()
            api.post("/v1/cities", _city(str(first + number), country).encode(), 201)
            answered[country] = time.time()
            took.append(answered[country] - sent)
        started = _started(api, len(answered))
    if set(started) != set(answered):
        raise ContenderError(
            f"cities of {len(answered)} countries were created, tasks of {len(started)} were run"
        )
    delays = [started[country] - answered[country] for country in answered]
    yield (
        DELAY,
        {
            "p50 ms": percentile(delays, 0.5) * 1e3,
            "p99 ms": percentile(delays, 0.99) * 1e3,
            "POST p50 ms": percentile(took, 0.5) * 1e3,
        },
    )


def _started(api: product.Api, count: int) -> dict[str, float]:
    """Wait until so many tasks have ended; return when each country's started, in s since 1970.

    Raises:
        ContenderError: Some did not end in time, or failed.
    """
    deadline = time.monotonic() + _TIMEOUT
    while len(tasks := list(_ended(api))) < count:
        if time.monotonic() > deadline:
            raise ContenderError(f"{count} cities were created, {len(tasks)} tasks have ended")
        time.sleep(_POLL)
    results = {task["id"]: api.get(f"/v1/tasks/{task['id']}/result").document["result"] for task in tasks}
    return {
        results[task["id"]]["country_code"]: datetime.fromisoformat(task["started_at"]).timestamp()
        for task in tasks
    }


def _ended(api: product.Api) -> Iterator[dict[str, str]]:
    path = f"/v1/tasks?name={COUNTRY_STATISTICS}&limit=100"
    page = api.get(path).document
    yield from page["tasks"]
    while page["cursor"] is not None:
        page = api.get(f"{path}&cursor={page['cursor']}").document
        yield from page["tasks"]


@contextmanager
def _standing(lab: Lab, _: Scale) -> Iterator[Standing]:
    with ExitStack() as stack:
        files = stack.enter_context(geonames.files(lab, _CITIES))
        ports = {}
        for contender in (NO_OUTBOX, API):
            database = lab.database.make(_DATABASES[contender.name])
            geonames.add_countries(lab, database, files)
            geonames.add_cities(lab, database, files)
            ports[contender.name] = str(stack.enter_context(product.api(lab, database, contender)).port)
        yield ports


ROW = Row(
    name="outbox",
    title="Outbox: commit, message, task",
    conditions=f"`POST /v1/cities` on a database with {_CITIES:,} cities, each committed with a message for "
    "its country's statistics, which the API's relay sends, confirmed, to a durable quorum queue. commits/s: "
    f"{_CONNECTIONS} connections, no worker; `sustained` counts the time until the broker has the last "
    "message, too. The limit is the same API with an outbox that takes nothing, on a database of its own. "
    f"Cities and messages are counted. Delay: {_PACE:.0f} commits/s, one after the other, a worker with two "
    "processes; from the answer that says that it is committed to the start of its task, by the worker's own "
    "record; every task's result is read.",
    contenders=(API, NO_OUTBOX, WORKER, PSQL, LIMIT),
    turns=_turns,
    tables=(
        Table(
            title="POST /v1/cities",
            columns=(
                Column(title="commits/s", case=RATE, metric="commits/s"),
                Column(title="sustained/s", case=RATE, metric="sustained/s"),
                Column(title="p50 ms", case=RATE, metric="p50 ms", digits=1),
                Column(title="p99 ms", case=RATE, metric="p99 ms", digits=1),
            ),
        ),
        Table(
            title="from the answer to the task's start, ms",
            columns=(
                Column(title="p50", case=DELAY, metric="p50 ms", digits=1),
                Column(title="p99", case=DELAY, metric="p99 ms", digits=1),
                Column(title="the POST itself, p50", case=DELAY, metric="POST p50 ms", digits=1),
            ),
        ),
    ),
    plots={"commits/s": Column(title="1/s", case=RATE, metric="sustained/s")},
    standing=_standing,
)
