"""Tasks made of coroutine functions, as Celery makes and calls them."""

import asyncio
import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Retry

from async_celery.worker import Policy, install, loops


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("tests", broker="memory://", backend="redis://", set_as_current=False)
    install(app, Policy())
    yield app
    loops._close_all()


def test_calling_the_task_returns_what_the_coroutine_does(app: Celery) -> None:
    @app.task(name="plain", shared=False)
    async def plain(x: int, y: int = 2) -> int:
        await asyncio.sleep(0)
        return x + y

    @app.task(name="bound", bind=True, shared=False)
    async def bound(self: Any, x: int) -> tuple[str, int]:
        await asyncio.sleep(0)
        return self.name, x

    class Own(app.Task):  # type: ignore[name-defined,misc]  # made by the app
        name = "own"

        async def run(self, x: int) -> tuple[str, int]:
            await asyncio.sleep(0)
            return self.name, x

    class Mixin:
        async def run(self, x: int) -> int:
            await asyncio.sleep(0)
            return -x

    class Mixed(Mixin, app.Task):  # type: ignore[name-defined,misc]  # made by the app
        name = "mixed"

    own: Any = app.register_task(Own())
    mixed: Any = app.register_task(Mixed())
    assert (plain(1), bound(1), own(1), mixed(1)) == (3, ("bound", 1), ("own", 1), -1)
    assert plain.run(1) == 3


def test_functions_stay_as_they_are(app: Celery) -> None:
    def body(x: int) -> int:
        return x

    task: Any = app.task(name="function", shared=False)(body)
    assert task.run is body
    assert task(1) == 1
    assert not loops._made


def test_retries_see_what_was_raised(app: Celery) -> None:
    @app.task(name="stumble", shared=False, autoretry_for=(ConnectionError,), retry_backoff=1)
    async def stumble() -> None:
        await asyncio.sleep(0)
        raise ConnectionError("not yet")

    task: Any = stumble
    sent: list[Any] = []
    task.push_request(id="a", args=[], kwargs={}, called_directly=False, delivery_info={}, is_eager=False)
    task.signature_from_request = lambda *_, **__: SimpleNamespace(apply_async=lambda: sent.append("again"))
    try:
        with pytest.raises(Retry, match="not yet"):
            task.run()
    finally:
        task.pop_request()
    assert len(sent) == 1


def test_arguments_are_checked_before_they_are_sent(app: Celery) -> None:
    @app.task(name="checked", shared=False)
    async def checked(x: int) -> int:
        return x

    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        checked.apply_async(())
    assert list(inspect.signature(checked.run).parameters) == ["x"]


def test_the_same_function_may_be_registered_again(app: Celery) -> None:
    """As importing its module twice does; Celery warns where another function has taken a name."""

    async def body() -> None: ...

    for _ in range(2):
        app.task(name="again", shared=False)(body)
    app.finalize()
    assert app.tasks["again"]() is None
