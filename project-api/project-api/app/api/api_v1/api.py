"""The routers of version 1.

How it works: `create_app` puts each under `/v1`. FastAPI looks through them in this order for each request, so
what is asked most stands first.

What belongs here: one entry per module of `endpoints/`.
"""

from app.api.api_v1.endpoints import (
    cities,
    countries,
    dead_letters,
    imports,
    project_worker,
    statistics,
    tasks,
    workflows,
)

PREFIX = "/v1"

ROUTERS = (
    cities.router,
    countries.router,
    statistics.router,
    project_worker.router,
    workflows.router,
    tasks.router,
    imports.router,
    dead_letters.router,
)
