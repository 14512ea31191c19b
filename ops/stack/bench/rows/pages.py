"""Pages: whether a page far behind the first one takes longer, with cursors and with OFFSET.

How it works: the first page and the far one are asked for by turns, one request each, so that whatever else the
machine does hits both alike. The far page's cursor is that of the row before it: the first
page's cursor with that row's values in it, as app/database/keyset.py writes it. Walking there
page by page gives the same, and takes minutes.

What belongs here: that row.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from stack.bench import geonames, product
from stack.bench.contenders import API, BARE, LIMIT, Contender, ContenderError
from stack.bench.lab import Lab
from stack.bench.results import percentile
from stack.bench.row import Column, Found, Row, Scale, Standing, Table, Turn
from stack.bench.rows.bare import bare, fingerprint, write_cursor

SORTS = ("geonameid", "name", "-population")
_DATABASE = "bench_pages"
_LIMIT = 50
_OFFSET_SHARE = 50
"""OFFSET's far page takes so long that it is asked for that many times less often."""
_CONTENDERS = (API, BARE)


def case(sort: str, page: str) -> str:
    """Return the name of a case: `page` is `first` or `far`."""
    return f"{sort}: {page}"


def _turns(scale: Scale) -> list[Turn]:
    return [
        Turn(
            contender=contender.name,
            case=sort,
            round=number,
            act=partial(_act, contender=contender, sort=sort, count=scale.pick(200, 1000)),
        )
        for number in range(scale.pick(1, 5))
        for sort in SORTS
        for contender in _CONTENDERS
    ]


def _act(lab: Lab, standing: Standing, *, contender: Contender, sort: str, count: int) -> Found:
    answer = lab.ask(
        LIMIT,
        "alternate",
        port=int(standing[contender.name]),
        paths=[standing[f"{contender.name} {case(sort, page)}"] for page in ("first", "far")],
        expected=200,
        count=count // _OFFSET_SHARE if contender is BARE else count,
    )
    if answer["refused"]:
        raise ContenderError(f"{answer['refused']} requests were not answered as the first one")
    for page, latencies in zip(("first", "far"), answer["latencies"], strict=True):
        yield (
            case(sort, page),
            {
                "requests": float(len(latencies)),
                "p50 ms": percentile(latencies, 0.5) * 1e3,
                "p99 ms": percentile(latencies, 0.99) * 1e3,
            },
        )


@contextmanager
def _standing(lab: Lab, scale: Scale) -> Iterator[Standing]:
    rows, page = scale.pick((100_000, 1000), (1_000_000, 10_000))
    lab.database.make(_DATABASE)
    geonames.add_synthetic(lab, _DATABASE, rows)
    standing: dict[str, str] = {}
    with product.api(lab, _DATABASE) as served, bare(lab, _DATABASE) as port:
        ours, theirs = product.Api(served.port), product.Api(port)
        for sort in SORTS:
            first = f"/v1/cities?sort={sort}&limit={_LIMIT}"
            offset = (page - 1) * _LIMIT
            listed = fingerprint(ours.get(first).document["cursor"])
            cursor = write_cursor(listed, _place(lab, sort, offset - 1))
            by_cursor, by_offset = f"{first}&cursor={cursor}", f"{first}&offset={offset}"
            if ours.get(by_cursor).document["items"] != theirs.get(by_offset).document["items"]:
                raise ContenderError(f"page {page:,} by {sort} is not the one that OFFSET gives")
            for contender, far in ((API, by_cursor), (BARE, by_offset)):
                standing[f"{contender.name} {case(sort, 'first')}"] = first
                standing[f"{contender.name} {case(sort, 'far')}"] = far
        yield {**standing, API.name: str(served.port), BARE.name: str(port)}


def _place(lab: Lab, sort: str, position: int) -> list[object]:
    """Return what a cursor says of the row at a position, counted from 0."""
    column, way = sort.removeprefix("-"), "DESC" if sort.startswith("-") else "ASC"
    columns = dict.fromkeys((column, "geonameid"))
    order = ", ".join(f"{name} {way}" for name in columns)
    place = f"SELECT json_build_array({', '.join(columns)}) FROM cities"  # noqa: S608 (names of ours)
    return list(json.loads(lab.database.ask(f"{place} ORDER BY {order} OFFSET {position} LIMIT 1", _DATABASE)))


def _table(sort: str) -> Table:
    return Table(
        title=f"sorted by {sort}, ms",
        columns=tuple(
            Column(title=f"{page} page, {metric[:3]}", case=case(sort, page), metric=metric, digits=2)
            for page in ("first", "far")
            for metric in ("p50 ms", "p99 ms")
        ),
    )


ROW = Row(
    name="pages",
    title="Page 10,000",
    conditions="1,000,000 synthetic cities in the product's tables with the product's indexes, in pages of "
    "50: page 10,000 beside page 1, for each sort (quick mode: 100,000 cities, and page 1,000 is the far "
    "one). One keep-alive connection with one request at a time asks for the two by turns. Ours goes on "
    "behind a cursor; the bare application, on asyncpg, skips rows with OFFSET. That both give the same far "
    "page is checked.",
    contenders=(*_CONTENDERS, LIMIT),
    turns=_turns,
    tables=tuple(_table(sort) for sort in SORTS),
    plots={
        f"p99 ms of the {page} page, by name": Column(title="ms", case=case("name", page), metric="p99 ms")
        for page in ("first", "far")
    },
    standing=_standing,
)
