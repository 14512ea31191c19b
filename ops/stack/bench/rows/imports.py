"""Imports: real rows through the API and the worker, against psql with the same SQL; and their memory.

How it works: both begin with an empty table of cities and the product's indexes. Memory is the highest that the
kernel has seen of the largest process, read after an import of some rows and again after one of ten times as
many.

What belongs here: that row.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from stack.bench import geonames, product
from stack.bench.contenders import API, PSQL, WORKER, ContenderError
from stack.bench.lab import Lab
from stack.bench.row import Column, Found, Row, Scale, Standing, Table, Turn

CASE, MEMORY = "rows", "memory"
_DATABASE = "bench_imports"
_POLL = 0.05  # s
_TIMEOUT = 900.0  # s
_TIMES = 10
_EMPTY = "TRUNCATE cities, country_statistics, imports CASCADE; CHECKPOINT;"


def _turns(scale: Scale) -> list[Turn]:
    memory = Turn(
        contender=API.name, case=MEMORY, round=0, act=partial(_memory, count=scale.pick(10_000, 100_000))
    )
    rates = [
        Turn(contender=contender.name, case=CASE, round=number, act=act)
        for number in range(scale.pick(1, 3))
        for contender, act in ((PSQL, _copy), (API, _import))
    ]
    return [memory, *rates]  # memory first: a process gives back little of what it has once had


def _memory(lab: Lab, standing: Standing, *, count: int) -> Found:
    peaks = []
    file = Path(standing["folder"]) / "synthetic.csv"
    for rows in (count, _TIMES * count):
        lab.database.ask(_EMPTY, _DATABASE)
        geonames.write_synthetic(file, rows)
        _load(lab, standing, file, rows)
        peaks.append([product.peak_memory(int(standing[name])) for name in (API.name, WORKER.name)])
    (api, worker), (api_later, worker_later) = peaks
    yield (
        MEMORY,
        {
            "rows": float(count),
            "API MiB": api / 2**20,
            "API MiB, 10 times": api_later / 2**20,
            "API growth": api_later / api,
            "worker MiB": worker / 2**20,
            "worker MiB, 10 times": worker_later / 2**20,
            "worker growth": worker_later / worker,
        },
    )


def _copy(lab: Lab, standing: Standing) -> Found:
    lab.database.ask(_EMPTY, _DATABASE)
    count = int(standing["count"])
    begin = time.monotonic()
    lab.database.ask(
        f"""
        BEGIN;
        {standing["table"]};
        \\copy {standing["incoming"]} ({standing["columns"]}) FROM '{standing["copy"]}' CSV HEADER
        {standing["merge"]};
        COMMIT;
        """,
        _DATABASE,
    )
    took = time.monotonic() - begin
    _require(lab, count)
    yield CASE, {"rows": float(count), "rows/s": count / took}


def _import(lab: Lab, standing: Standing) -> Found:
    lab.database.ask(_EMPTY, _DATABASE)
    count = int(standing["count"])
    took = _load(lab, standing, Path(standing["upload"]), count)
    yield CASE, {"rows": float(count), "rows/s": count / took}


def _load(lab: Lab, standing: Standing, path: Path, count: int) -> float:
    """Import a file; return the seconds from the first byte to its success.

    Raises:
        ContenderError: It failed, took too long, shows no result, or not every row of it was inserted.
    """
    api = product.Api(int(standing["port"]))
    begin = time.monotonic()
    with path.open("rb") as file:
        location = api.post("/v1/imports", file, 202, content_type="text/csv").headers["location"]
    while (document := api.get(location).document)["status"] != "SUCCESS":
        if document["status"] in ("FAILURE", "REVOKED") or time.monotonic() > begin + _TIMEOUT:
            raise ContenderError(f"the import has not succeeded: {str(document)[:300]}")
        time.sleep(_POLL)
    took = time.monotonic() - begin
    if document["result"] is None:
        raise ContenderError("the import is said to have succeeded, and shows no result")
    counts = document["result"]["cities"]
    if (counts["read"], counts["inserted"]) != (count, count):
        raise ContenderError(f"{count} rows were sent, this became of them: {counts}")
    _require(lab, count)
    return took


def _require(lab: Lab, count: int) -> None:
    found = int(lab.database.ask("SELECT count(*) FROM cities", _DATABASE))
    if found != count:
        raise ContenderError(f"{count} rows were imported, {found} are there")


@contextmanager
def _standing(lab: Lab, scale: Scale) -> Iterator[Standing]:
    lab.database.make(_DATABASE)
    with ExitStack() as stack:
        files = stack.enter_context(geonames.files(lab, scale.pick(20_000, 0)))
        geonames.add_countries(lab, _DATABASE, files)
        worker = stack.enter_context(product.worker(lab, _DATABASE))
        api = stack.enter_context(product.api(lab, _DATABASE))
        yield {
            **product.merge_statements(lab),
            "port": str(api.port),
            API.name: str(api.pid),
            WORKER.name: str(worker.pid),
            "folder": str(files.folder),
            "upload": str(files.upload),
            "copy": str(files.copy),
            "columns": files.columns,
            "count": str(files.count),
        }


ROW = Row(
    name="imports",
    title="Import of cities",
    conditions="GeoNames as CSV (all 234,908 cities; in quick mode 20,000 of them) into an empty table with "
    "the product's indexes and constraints. Ours is `POST /v1/imports`, from the first byte sent to the "
    "import's SUCCESS: split and staged by the API, each row validated and merged by a worker with two "
    "processes, in parts, countries' statistics refreshed, staged rows deleted. psql, in one transaction, "
    "copies a file of the same rows into a temporary table, then runs the very statement that the worker "
    "merges with, taken from its code. Afterwards the rows are counted. Memory: the peak of the API's "
    "process, and of the largest of the worker's, after the import of 100,000 synthetic rows (quick: 10,000) "
    "and after another of ten times as many, in processes that have just started.",
    contenders=(PSQL, API, WORKER),
    turns=_turns,
    tables=(
        Table(
            title="rows/s",
            columns=(
                Column(title="rows", case=CASE, metric="rows"),
                Column(title="rows/s", case=CASE, metric="rows/s"),
            ),
        ),
        Table(
            title="peak memory in MiB: some rows, and ten times as many",
            columns=(
                Column(title="rows", case=MEMORY, metric="rows"),
                Column(title="API", case=MEMORY, metric="API MiB", digits=1),
                Column(title="× 10", case=MEMORY, metric="API MiB, 10 times", digits=1),
                Column(title="worker", case=MEMORY, metric="worker MiB", digits=1),
                Column(title="× 10", case=MEMORY, metric="worker MiB, 10 times", digits=1),
            ),
        ),
    ),
    plots={"rows/s": Column(title="rows/s", case=CASE, metric="rows/s")},
    standing=_standing,
)
