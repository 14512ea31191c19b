"""The README's examples are run as they stand, but for the addresses; FastAPI's, in project-api."""

import ast
import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, group
from celery.canvas import Signature

import async_celery
from async_celery.testing import FakeCelery
from async_celery.worker import Policy, install, loops, shared

from .conftest import KEY, Address

README = Path(__file__).parents[2] / "README.md"


async def run(marker: str, names: dict[str, Any], **replacements: str) -> None:
    """Run the one example that contains `marker`, with these names in it; it adds its own."""
    found = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (example,) = (text for text in found if marker in text)
    for old, new in replacements.items():
        assert f'"{old}"' in example
        example = example.replace(f'"{old}"', f'"{new}"')
    code = compile(example, README, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, names)  # noqa: S307 (our own text)
    if running is not None:  # something is awaited in it
        await running


@pytest.mark.usefixtures("worker")
async def test_the_workflow_runs(
    broker: Address, backend: Address, queue: str, spare_queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app = Celery(broker=broker.url(), backend=backend.url(), set_as_current=False)
    names = {**vars(async_celery), "app": app, "key": KEY, "group": group, "Signature": Signature}
    await run("client.submit", names, sums=queue, reports=spare_queue)
    assert (names["status"].state, len(names["status"].children)) == ("SUCCESS", 3)
    assert capsys.readouterr().out == "SUCCESS None\n"


async def test_the_fake_takes_the_place_of_servers() -> None:
    names: dict[str, Any] = {**vars(async_celery), "FakeCelery": FakeCelery, "pytest": pytest}
    await run("FakeCelery()", names)
    assert [task.args for task in names["fake"].sent] == [(1, 2)]


async def test_the_async_task_runs() -> None:
    class Client:
        """Stands for httpx's."""

        async def __aenter__(self) -> "Client":
            return self

        async def __aexit__(self, *_: object) -> None:
            opened.remove(self)

        async def get(self, url: str) -> Any:
            opened.append(self)
            return SimpleNamespace(content=url.encode())

    opened: list[Client] = []
    app = Celery(broker="memory://", backend="redis://", set_as_current=False)
    install(app, Policy())
    names: dict[str, Any] = {
        "app": app,
        "asyncio": asyncio,
        "shared": shared,
        "httpx": SimpleNamespace(AsyncClient=Client),
        "AsyncIterator": AsyncIterator,
        "asynccontextmanager": asynccontextmanager,
    }
    await run("shared(http)", names)
    try:
        # In a thread without a running loop, as a worker's is.
        assert await asyncio.to_thread(names["size"], "four") == 4
        assert len(opened) == 1
    finally:
        loops._close_all()
    assert opened == []
