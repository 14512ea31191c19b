"""One request, one transaction: committed before its response is sent.

How it works: a router with `route_class=Transactional` opens a session around each of its endpoints, which get
it as `SessionDep`. The transaction is committed when the endpoint's response is ready and before it leaves: a
client that reads after its answer sees what it wrote, and a commit that fails is the answer. An endpoint that
raises has written nothing. A transaction that met another one (deadlock, serialization failure) is repeated once,
dependencies and endpoint and all; then the client is told.

A GET reads, each statement in a transaction of its own: that sees the same, and saves two round trips of three.
It has a session if its endpoint asks for one; `DatabaseDep` reads without, for a third of the time. A session
takes a connection with its first statement: a request that is refused before costs none.

What belongs here: where a request's transaction begins and ends.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant

from app.api.deps import get_resources, get_session
from app.api.replays import Repeatable
from project_database.errors import TransactionConflict


class Transactional(Repeatable):
    """The routes of a router whose endpoints work on PostgreSQL."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, in a transaction."""
        handle = super().get_route_handler()
        has_session = self.methods != {"GET"} or _asks_for_a_session(self.dependant)

        async def in_transaction(request: Request) -> Response:
            database = (await get_resources(request)).database
            opened = database.reading() if request.method == "GET" else database.transaction()
            async with opened as session:
                request.state.session = session
                return await handle(request)

        work = in_transaction if has_session else handle

        async def with_second_try(request: Request) -> Response:
            try:
                return await work(request)
            except TransactionConflict:
                return await work(request)

        return with_second_try


def _asks_for_a_session(dependant: Dependant) -> bool:
    return any(one.call is get_session or _asks_for_a_session(one) for one in dependant.dependencies)
