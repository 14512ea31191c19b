"""Creating rows once, however often the client repeats the request under one Idempotency-Key.

How it works: a route of this class that declares `Depends(get_key)` keeps its answer in its own transaction
(`app/database/idempotency.py`). A repeat gets that answer, byte for byte, with `Idempotency-Replayed: true`; one
that comes while the first is still worked gets 409. Only answers of success are kept: a request that was refused
has written nothing, and its repeat is worked anew.

What belongs here: that route class.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.api.deps import get_session
from app.api.idempotency import get_key, take_fingerprint
from app.database.idempotency import StoredAnswer, StoredAnswers


class Repeatable(APIRoute):
    """The routes of a router whose endpoints have a session; `transactions.Transactional` gives it to them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler; where the route takes a key, one that keeps its answer."""
        handle = super().get_route_handler()
        if all(dependency.dependency is not get_key for dependency in self.dependencies):
            return handle

        async def handle_once(request: Request) -> Response:
            key = await get_key(request)
            if key is None:
                return await handle(request)
            fingerprint = await take_fingerprint(request)
            answers = StoredAnswers(await get_session(request))
            if answer := await answers.claim(key, fingerprint):
                return Response(
                    answer.body, answer.status, headers={**answer.headers, "Idempotency-Replayed": "true"}
                )
            response = await handle(request)
            headers = {name: value for name, value in response.headers.items() if name != "content-length"}
            answer = StoredAnswer(status=response.status_code, headers=headers, body=bytes(response.body))
            await answers.add(key, fingerprint, answer)
            return response

        return handle_once
