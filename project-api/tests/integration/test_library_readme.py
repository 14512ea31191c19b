"""The FastAPI example in async-celery's README, run as it stands but for addresses and the name of the task.

It is here because the library's own tests run without FastAPI, on purpose.
"""

import re
from pathlib import Path
from typing import Any

import httpx
from processes import Worker, wait_until
from worker_app import settings

from project_contracts.integers import INTEGER_MULTIPLICATION

README = Path(__file__).parents[3] / "libs" / "async-celery" / "README.md"


async def test_the_fastapi_example_runs(worker: Worker) -> None:
    wait_until(worker.ready, 30, "the worker is ready")
    (example,) = (
        text for text in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "FastAPI(" in text
    )
    for old, new in {
        '"amqp://…"': f'"{settings.broker}"',
        '"redis://…"': f'"{settings.backend}"',
        'b"…"': "b'a key for tests only'",
        '"add"': f'"{INTEGER_MULTIPLICATION.name}"',
    }.items():
        assert old in example
        example = example.replace(old, new)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, README, "exec"), names)  # noqa: S102 (our own text)
    api = names["api"]
    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://example") as http,
    ):
        assert (await http.post("/sums", params={"x": 6, "y": 7})).json() == 42
        assert (await http.post("/sums", params={"x": "six", "y": 7})).status_code == 422
