"""Whose lines a thread writes: while a message is handled, in its coroutines, and nowhere else."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from async_celery.worker import current_subject, loops
from async_celery.worker.subject import (
    NOTHING,
    Subject,
    busy_with,
    of_request,
    subject_of_message,
    subject_of_request,
)

REQUEST: dict[str, Any] = {"id": "1", "delivery_info": {"routing_key": "a"}}


def test_it_is_the_innermost_one_and_then_the_one_before() -> None:
    outer, inner = subject_of_request(REQUEST), Subject({"id": "2"}, {})
    assert current_subject() is NOTHING
    with busy_with(outer):
        with pytest.raises(ValueError, match="no"), busy_with(inner):
            assert current_subject() is inner
            raise ValueError("no")
        assert current_subject() == (REQUEST, {"routing_key": "a"})
    assert current_subject() is NOTHING


def test_another_thread_is_busy_with_nothing() -> None:
    seen: list[Subject] = []
    with busy_with(subject_of_request(REQUEST)):
        thread = threading.Thread(target=lambda: seen.append(current_subject()))
        thread.start()
        thread.join()
    assert seen == [NOTHING]


@pytest.mark.parametrize("odd", [None, 5, [("id", "1")]])
def test_a_message_of_a_stranger_has_no_headers(odd: object) -> None:
    assert subject_of_message(SimpleNamespace(headers=odd, delivery_info=odd)) == NOTHING
    assert subject_of_request({"delivery_info": odd}).delivery == {}


def test_a_request_s_method_is_busy_with_its_message() -> None:
    class Request:
        request_dict = REQUEST

        @of_request
        def method(self, value: int, *, twice: bool) -> tuple[int, Subject]:
            return value * (1 + twice), current_subject()

    assert Request().method(2, twice=True) == (4, subject_of_request(REQUEST))


def test_a_coroutine_is_its_task_s_and_what_it_opens_is_nobody_s() -> None:
    loop = loops.TaskLoop()
    seen: dict[str, Subject] = {}

    class Opened:
        async def __aenter__(self) -> "Opened":
            seen["opened"] = current_subject()
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

    async def body(name: str) -> None:
        await loop.shared(Opened)
        await asyncio.sleep(0)
        seen[name] = current_subject()

    for name in ("one", "two"):
        with busy_with(Subject({"id": name}, {})):
            loop.run(body(name))
    loop.close()
    assert seen == {"one": Subject({"id": "one"}, {}), "two": Subject({"id": "two"}, {}), "opened": NOTHING}


def test_what_is_opened_first_by_a_task_is_nobody_s() -> None:
    with busy_with(subject_of_request(REQUEST)):
        loop = loops.TaskLoop()
    assert loop._context.run(current_subject) is NOTHING
    loop.close()
