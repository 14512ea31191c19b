"""The template of the path that a request went to, for what names endpoints and not their data.

How it works: the router notes the route in the request's scope once it is found, also where the method or the
arguments are then refused. A route knows its own path only; the prefixes that it was included under are in the
list that FastAPI makes of all routes (`iter_route_contexts`). That is read once per app, at its first request.

What belongs here: finding that template.
"""

from functools import lru_cache

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import Scope

UNMATCHED = "__unmatched__"
"""Stands for every path that no endpoint has: there is no end of those."""


def route_of(scope: Scope) -> str:
    """Return the template of a request that was served, prefix included: `/v1/tasks/{task_id}`."""
    route = scope.get("route")
    if route is not None:
        return _templates(scope["app"]).get(id(route), UNMATCHED)
    if "router" in scope:
        return UNMATCHED
    # Answered before it came to the router: a body that is too large.
    contexts = iter_route_contexts(scope["app"].routes)
    return next((str(found.path) for found in contexts if found.path_regex.match(scope["path"])), UNMATCHED)


@lru_cache(maxsize=1)
def _templates(app: FastAPI) -> dict[int, str]:
    # By identity: routes have no hash. The app keeps them.
    return {
        id(context.original_route): str(context.path)
        for context in iter_route_contexts(app.routes)
        if context.path is not None
    }
