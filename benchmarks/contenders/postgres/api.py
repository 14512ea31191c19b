"""The bare application: FastAPI on asyncpg, as one writes it by hand for exactly these two routes.

How it works: a pool of the product's size, one prepared statement per request and so one round trip, as in the
product: no transaction of its own, and no reset of the connection, asyncpg's default. No model, orjson. It
answers the bytes that the product answers; its list knows the product's sorts, and OFFSET instead of a cursor.
The cursor that it names is of the product's form, so that the bytes are the same: it is told the part of it that
the product computes from the list (`fingerprint`).

What belongs here: those routes.
"""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import orjson
import uvicorn
from bench_protocol import Command
from fastapi import FastAPI, Response

_COLUMNS = (
    "geonameid, name, alternate_names, country_code, admin1_code, latitude, longitude, population, timezone, "
    "version, created_at, updated_at"
)
_POOL = 10  # connections, as many as project-api has
_ORDERS = {
    "geonameid": "geonameid",
    "name": "name, geonameid",
    "-population": "population DESC, geonameid DESC",
}
_ONE = f"SELECT {_COLUMNS} FROM cities WHERE geonameid = $1"  # noqa: S608 (constants)
_LIST = f"SELECT {_COLUMNS} FROM cities ORDER BY {{order}} LIMIT $1 OFFSET $2"  # noqa: S608 (constants)


def serve(asked: Command) -> None:
    """Serve until it is killed."""
    pools: list[asyncpg.Pool[asyncpg.Record]] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        settings = {"jit": "off"}  # as project-api has it
        async with asyncpg.create_pool(
            asked.database, min_size=_POOL, max_size=_POOL, server_settings=settings, reset=_leave_as_it_is
        ) as pool:
            pools.append(pool)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/v1/cities/{geonameid}")
    async def get_city(geonameid: int) -> Response:
        row = await pools[0].fetchrow(_ONE, geonameid)
        return _answer(dict(row) if row else {})

    @app.get("/v1/cities")
    async def list_cities(sort: str, limit: int, offset: int = 0, fingerprint: str = "") -> Response:
        rows = await pools[0].fetch(_LIST.format(order=_ORDERS[sort]), limit + 1, offset)
        shown = [dict(row) for row in rows[:limit]]
        cursor = _cursor(fingerprint, sort, shown[-1]) if len(rows) > limit else None
        return _answer({"items": shown, "cursor": cursor, "total": None})

    uvicorn.run(app, host="127.0.0.1", port=asked.port, log_level="warning", access_log=False)


async def _leave_as_it_is(_connection: object) -> None:
    """Reset nothing: a SELECT leaves nothing behind."""


def _answer(document: dict[str, object]) -> Response:
    return Response(orjson.dumps(document, option=orjson.OPT_UTC_Z), media_type="application/json")


def _cursor(fingerprint: str, sort: str, last: dict[str, object]) -> str:
    columns = dict.fromkeys((sort.removeprefix("-"), "geonameid"))
    place = json.dumps([last[name] for name in columns]).encode()
    return base64.urlsafe_b64encode(bytes.fromhex(fingerprint) + place).rstrip(b"=").decode()
