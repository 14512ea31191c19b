"""Templates of paths: with their prefixes, also where the route then refuses; one for all unknown paths."""

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.routes import UNMATCHED, route_of


class Noting:
    """Notes what the requests that passed it went to."""

    def __init__(self, app: ASGIApp, seen: list[str]) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
        self._seen.append(route_of(scope))


@pytest.mark.parametrize(
    ("method", "path", "status", "template"),
    [
        ("GET", "/v1/things/1", 200, "/v1/things/{number}"),
        ("GET", "/v1/things/one", 422, "/v1/things/{number}"),
        ("DELETE", "/v1/things/1", 405, "/v1/things/{number}"),
        ("GET", "/alone", 200, "/alone"),
        ("GET", "/v1/things/1/2", 404, UNMATCHED),
    ],
)
async def test_the_template_of_a_path(method: str, path: str, status: int, template: str) -> None:
    app, router, seen = FastAPI(), APIRouter(prefix="/things"), list[str]()

    @router.get("/{number}")
    async def read(number: int) -> int:
        return number

    @app.get("/alone")
    async def alone() -> None: ...

    app.include_router(router, prefix="/v1")
    app.add_middleware(Noting, seen=seen)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        assert (await client.request(method, path)).status_code == status
    assert seen == [template]
