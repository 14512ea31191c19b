"""CRUD: one city and a list of cities over HTTP, against a bare FastAPI application on asyncpg.

How it works: both servers run during the whole row on one database, idle but for the one whose turn it is. Every
answer of a server is compared with its first, the first ones with each other.

What belongs here: that row.
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from stack.bench import geonames, product
from stack.bench.contenders import API, BARE, LIMIT, PSQL, Contender, ContenderError
from stack.bench.lab import Lab
from stack.bench.results import percentile
from stack.bench.row import Column, Found, Row, Scale, Standing, Table, Turn
from stack.bench.rows.bare import bare, fingerprint

ONE, LIST = "GET one", "GET list of 50"
_CASES = (ONE, LIST)
_CONNECTIONS = 50
_DATABASE = "bench_crud"
_CONTENDERS = (BARE, API)


def _turns(scale: Scale) -> list[Turn]:
    seconds = scale.pick(0.8, 3.0)
    return [
        Turn(
            contender=contender.name,
            case=case,
            round=number,
            act=partial(_act, contender=contender, case=case, seconds=seconds),
        )
        for number in range(scale.pick(1, 5))
        for case in _CASES
        for contender in _CONTENDERS
    ]


def _act(lab: Lab, standing: Standing, *, contender: Contender, case: str, seconds: float) -> Found:
    answer = lab.ask(
        LIMIT,
        "load",
        port=int(standing[contender.name]),
        path=standing[f"{contender.name} {case}"],
        expected=200,
        levels=(_CONNECTIONS,),
        seconds=seconds,
    )
    if answer["refused"]:
        raise ContenderError(f"{answer['refused']} requests were not answered as the first one")
    if answer["answers"] != [standing[f"{case}: answer"]]:
        raise ContenderError("the answer has not the bytes that the product's has")
    latencies = answer["latencies"]
    yield (
        case,
        {
            "requests/s": len(latencies) / answer["seconds"],
            "p50 ms": percentile(latencies, 0.5) * 1e3,
            "p99 ms": percentile(latencies, 0.99) * 1e3,
        },
    )


@contextmanager
def _standing(lab: Lab, scale: Scale) -> Iterator[Standing]:
    lab.database.make(_DATABASE)
    with ExitStack() as stack:
        files = stack.enter_context(geonames.files(lab, scale.pick(20_000, 0)))
        geonames.add_countries(lab, _DATABASE, files)
        geonames.add_cities(lab, _DATABASE, files)
        served = stack.enter_context(product.api(lab, _DATABASE))
        api = product.Api(served.port)
        largest = api.get("/v1/cities?sort=-population&limit=50").document["items"][0]["geonameid"]
        paths = {ONE: f"/v1/cities/{largest}", LIST: "/v1/cities?sort=name&limit=50"}
        answers = {case: api.get(path) for case, path in paths.items()}
        port = stack.enter_context(bare(lab, _DATABASE))
        standing = {API.name: str(served.port), BARE.name: str(port)}
        for case, path in paths.items():
            standing[f"{API.name} {case}"] = standing[f"{BARE.name} {case}"] = path
            standing[f"{case}: answer"] = hashlib.sha256(answers[case].body).hexdigest()
        # What the product computes from the list, the bare application is told: its cursor is the same then.
        listed = fingerprint(answers[LIST].document["cursor"])
        standing[f"{BARE.name} {LIST}"] += f"&fingerprint={listed.hex()}"
        yield standing


def _table(case: str) -> Table:
    columns = (("requests/s", 0), ("p50 ms", 1), ("p99 ms", 1))
    return Table(
        title=f"{case}, {_CONNECTIONS} connections",
        columns=tuple(Column(title=title, case=case, metric=title, digits=digits) for title, digits in columns),
    )


ROW = Row(
    name="crud",
    title="FastAPI: GET a city, and a list of cities",
    conditions="uvicorn (one process, uvloop, httptools) and PostgreSQL with GeoNames (quick: 20,000 of its "
    "cities); 50 keep-alive connections, each with one request at a time, from a load generator in another "
    "process on the same cores. Ours is project-api as `./stack up` starts it, with a log line, ETag and "
    "request id for each request. The bare application is a FastAPI route with a pool of asyncpg of the same "
    "size, a hand-written statement, and orjson; it logs nothing and validates nothing. Both send one "
    "statement per request, outside a transaction, and nothing else (asyncpg's reset of a connection that is "
    "given back is off). Both answer the same bytes: every answer is compared.",
    contenders=(*_CONTENDERS, PSQL, LIMIT),
    turns=_turns,
    tables=tuple(_table(case) for case in _CASES),
    plots={f"{case}: requests/s": Column(title="requests/s", case=case, metric="requests/s") for case in _CASES},
    standing=_standing,
)
