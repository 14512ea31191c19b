"""A canvas does the same when this library submits it as when Celery does: on the same worker.

How it works: plans of canvases, written out or drawn by hypothesis, are built from tasks that return what they
were called with, so that a result tells the way of all data. Each plan is run twice: `submit(…).result()` here,
`apply_async().get()` by Celery itself. Where this library differs on purpose (`DIFFERENCES`), both results are
written down with the reason, and drawn plans are put to Celery in the words that mean to it what they mean here.

What belongs here: results compared. States, children and failures are `test_workflows.py`'s.
"""

import asyncio
import contextlib
import functools
import operator
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import chunks, xmap, xstarmap
from celery.exceptions import ChordError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from async_celery import AsyncCelery, TaskFailed

from .conftest import KEY, Address
from .faults import scaled

pytestmark = pytest.mark.usefixtures("worker")

TIMEOUT = 20.0  # s


class Sides:
    """Both ways to run a canvas, and the words to write one."""

    def __init__(self, broker_url: str, backend_url: str, queue: str) -> None:
        self.app = Celery(broker=broker_url, backend=backend_url, set_as_current=False)
        self.app.conf.update(
            task_default_queue=queue,
            broker_transport_options={"confirm_publish": True},
            # Without it Celery warns that it will be so one day.
            task_allow_error_cb_on_chord_header=True,
        )
        self._runner = asyncio.Runner()
        self._client = AsyncCelery(self.app, task_id_key=KEY)

    def ours(self, canvas: Any) -> Any:
        async def run() -> Any:
            handle = await self._client.submit(canvas)
            return await handle.result(timeout=TIMEOUT)

        return self._runner.run(run())

    def celerys(self, canvas: Any) -> Any:
        return canvas.apply_async().get(timeout=TIMEOUT)

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()
        backend: Any = self.app.backend
        # A result of Celery's that is collected later unsubscribes, on a connection that it opens for that.
        backend.remove_pending_result = lambda result: result
        backend.result_consumer.stop()
        backend.client.connection_pool.disconnect()
        self.app.close()

    def see(self, *args: Any, **kwargs: Any) -> Any:
        return self.app.signature("see", args=args, kwargs=kwargs)

    def steps(self, *steps: Any) -> Any:
        """Return a chain of these steps as they are; `chain(a, b)` folds them by `|`."""
        as_one_list: Any = list(steps)
        return chain(as_one_list, app=self.app)

    def task(self, name: str) -> Any:
        return self.app.signature(name)


@pytest.fixture(scope="module")
def sides(broker: Address, backend: Address, queue: str) -> Iterator[Sides]:
    sides = Sides(broker.url(), backend.url(), queue)
    yield sides
    sides.close()


Build = Callable[[Sides], Any]

SHAPES: dict[str, Build] = {
    "single": lambda s: s.see(1, a=2),
    "immutable": lambda s: chain(s.see(1), s.see(2).set(immutable=True), s.see(3)),
    "chain": lambda s: chain(s.see(1), s.see(2, b=1), s.see(3)),
    "chain in chain": lambda s: s.steps(chain(s.see(1), s.see(2)), s.see(3)),
    "group": lambda s: group(s.see(n) for n in range(4)),
    "group in group": lambda s: group([group(s.see(1), s.see(2)), s.see(3), group(s.see(4))]),
    "chain in group": lambda s: group(chain(s.see(1), s.see(2)), s.see(3)),
    "chord": lambda s: chord([s.see(n) for n in range(4)], s.see("body", k=1)),
    "chord with immutable body": lambda s: chord([s.see(1), s.see(2)], s.see("body").set(immutable=True)),
    "chain in header": lambda s: chord([chain(s.see(1), s.see(2)), s.see(3)], s.see("body")),
    "chord in header": lambda s: chord([chord([s.see(1), s.see(2)], s.see("in")), s.see(3)], s.see("out")),
    "chain as body": lambda s: chord([s.see(1), s.see(2)], chain(s.see("b"), s.see("c"))),
    "group as body": lambda s: chord([s.see(1), s.see(2)], group(s.see("b"), s.see("c"))),
    "chord as body": lambda s: chord([s.see(1), s.see(2)], chord([s.see("b"), s.see("c")], s.see("d"))),
    "group, then task": lambda s: group(s.see(1), s.see(2)) | s.see("b"),
    "task, group, task": lambda s: s.steps(s.see(0), group(s.see(1), s.see(2)), s.see("b"), s.see("c")),
    "group, then group": lambda s: s.steps(group(s.see(1), s.see(2)), group(s.see("b"), s.see("c"))),
    "group, group, task": lambda s: group(s.see(1), s.see(2)) | group(s.see(3), s.see(4)) | s.see("b"),
    "task, then chord": lambda s: chain(s.see(0), chord([s.see(1), s.see(2)], s.see("b")), s.see("c")),
    "chord, then chord": lambda s: chord([s.see(1)], s.see("b")) | chord([s.see(2), s.see(3)], s.see("c")),
    "chord in group": lambda s: group(chord([s.see(1), s.see(2)], s.see("b")), s.see(3)),
    "chain that ends in a group, in group": lambda s: group(
        [chain(s.see(0), group(s.see(1), s.see(2))), s.see(3)]
    ),
    "chain that ends in a group, in header": lambda s: chord(
        [chain(s.see(0), group(s.see(1), s.see(2))), s.see(3)], s.see("b")
    ),
    "map": lambda s: xmap(s.task("see"), [1, 2, 3], app=s.app),
    "starmap": lambda s: xstarmap(s.task("see"), [(1, 2), (3, 4)], app=s.app),
    "chunks": lambda s: chunks(s.task("see"), [(1, 2), (3, 4), (5, 6)], 2, app=s.app),
    "map in chain": lambda s: chain(xmap(s.task("see"), [1, 2], app=s.app), s.see("b")),
    "starmap in header": lambda s: chord([xstarmap(s.task("see"), [(1,)], app=s.app), s.see(2)], s.see("b")),
    "replaced by a task": lambda s: s.task("become").clone(kwargs={"canvas": s.see("new")}),
    "replaced by a chain": lambda s: s.task("become").clone(kwargs={"canvas": s.see("a") | s.see("b")}),
    "replaced by a group": lambda s: s.task("become").clone(
        kwargs={"canvas": group(s.see("a"), s.see("b")) | s.see("c")}
    ),
    "replaced in a chain": lambda s: chain(
        s.see(0), s.task("become").clone(kwargs={"canvas": s.see("new")}), s.see(1)
    ),
    "replaced in a header": lambda s: chord(
        [s.task("become").clone(kwargs={"canvas": s.see("a") | s.see("b")}), s.see(1)], s.see("c")
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(sides: Sides, shape: str) -> None:
    build = SHAPES[shape]
    assert sides.ours(build(sides)) == sides.celerys(build(sides))


# name: (canvas, its result here, its result by Celery with every id as "id", why it is another one here)
DIFFERENCES: dict[str, tuple[Build, Any, Any, str]] = {
    "group of one, then a task": (
        lambda s: s.steps(group([s.see(1)]), s.see("b")),
        [[[1]], "b"],
        [[1], "b"],
        "a group gives a list: a body must not break when it has one member",
    ),
    "task, then group of one": (
        lambda s: s.steps(s.see(1), group([s.see(2)])),
        [[[1], 2]],
        [[1], 2],
        "as above",
    ),
    "group in a header": (
        lambda s: chord([group(s.see(1), s.see(2)), s.see(3)], s.see("b")),
        [[[1], [2], [3]], "b"],
        [[[2], [1], [3]], "b"],
        "results come in the order in which their tasks were written",
    ),
    "chunks in a group": (
        lambda s: group([s.see(1), chunks(s.task("see"), [(2,), (3,), (4,)], 2, app=s.app)]),
        [[1], [[2], [3]], [[4]]],
        [[1], [["id", None], [[["id", None], None], [["id", None], None]]]],
        "the results of the chunks, not the ids of their results",
    ),
    "chunks, then a task": (
        lambda s: s.steps(chunks(s.task("see"), [(2,), (3,), (4,)], 2, app=s.app), s.see("b")),
        [[[[2], [3]], [[4]]], "b"],
        "EncodeError",
        "as above",
    ),
}


def _with_ids_named(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_with_ids_named(part) for part in value]
    return "id" if isinstance(value, str) and re.fullmatch(r"[0-9a-f-]{36}", value) else value


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_are_these(sides: Sides, name: str) -> None:
    build, ours, celerys, _ = DIFFERENCES[name]
    assert sides.ours(build(sides)) == ours
    try:
        result = _with_ids_named(sides.celerys(build(sides)))
    except Exception as exc:
        result = type(exc).__name__
    assert result == celerys


Note = Callable[[str], Any]

# name: (canvas, what its callbacks have written in the end)
LINKED: dict[str, tuple[Callable[[Sides, Note], Any], list[str]]] = {
    "task": (lambda s, note: _linked(s.see(1), note("a")), ["a"]),
    "two": (lambda s, note: _linked(_linked(s.see(1), note("a")), note("b")), ["a", "b"]),
    "middle of a chain": (lambda s, note: s.steps(s.see(1), _linked(s.see(2), note("a")), s.see(3)), ["a"]),
    "members of a group": (
        lambda s, note: group([_linked(s.see(1), note("a")), _linked(s.see(2), note("b"))]),
        ["a", "b"],
    ),
    "member of a header": (lambda s, note: chord([_linked(s.see(1), note("a")), s.see(2)], s.see("b")), ["a"]),
    "body": (lambda s, note: chord([s.see(1), s.see(2)], _linked(s.see("b"), note("a"))), ["a"]),
    "chord": (lambda s, note: _linked(chord([s.see(1), s.see(2)], s.see("b")), note("a")), ["a"]),
    "chain": (lambda s, note: _linked(chain(s.see(1), s.see(2)), note("a")), ["a"]),
    "link that is a chain": (lambda s, note: _linked(s.see(1), note("a") | note("b")), ["a", "b"]),
    "error": (lambda s, note: _error_linked(s.task("fail"), note("a")), ["a"]),
    "error in a chain": (
        lambda s, note: s.steps(s.see(1), _error_linked(s.task("fail"), note("a")), s.see(2)),
        ["a"],
    ),
    "error of a chain": (lambda s, note: _error_linked(s.steps(s.see(1), s.task("fail")), note("a")), ["a"]),
    "error of a body": (
        lambda s, note: chord([s.see(1), s.task("fail")], _error_linked(s.see("b"), note("a"))),
        ["a"],
    ),
    "error of a chord": (
        lambda s, note: _error_linked(chord([s.see(1), s.task("fail")], s.see("b")), note("a")),
        ["a", "a"],  # of the header's task, and of the body
    ),
    "error of a group": (
        lambda s, note: _error_linked(group([s.task("fail"), s.see(1)]), note("a")),
        ["a"],
    ),
    "error that does not come": (
        lambda s, note: _error_linked(s.steps(s.see(1), _linked(s.see(2), note("a"))), note("b")),
        ["a"],
    ),
}


def _linked(canvas: Any, callback: Any) -> Any:
    canvas.link(callback)
    return canvas


def _error_linked(canvas: Any, errback: Any) -> Any:
    canvas.link_error(errback)
    return canvas


@pytest.mark.parametrize("name", LINKED)
def test_links_and_errbacks_run(sides: Sides, tmp_path: Path, name: str) -> None:
    build, expected = LINKED[name]
    for run in (sides.ours, sides.celerys):
        notes = tmp_path / run.__name__

        def note(line: str, notes: Path = notes) -> Any:
            return sides.app.signature("note", args=(str(notes), line), immutable=True)

        def noted(notes: Path = notes) -> list[str]:
            return sorted(notes.read_text().splitlines()) if notes.exists() else []

        with contextlib.suppress(TaskFailed, ValueError, ChordError):
            run(build(sides, note))
        deadline = time.monotonic() + TIMEOUT
        while len(noted()) < len(expected) and time.monotonic() < deadline:
            time.sleep(0.01)
        sides.ours(chain(sides.see(1), sides.see(2)))  # and nothing comes after them
        assert (run.__name__, noted()) == (run.__name__, expected)


# --- Drawn -----------------------------------------------------------------------------------------------------

Plan = tuple[Any, ...]


def _tree(inner: "st.SearchStrategy[Plan]") -> "st.SearchStrategy[Plan]":
    some = st.lists(inner, min_size=1, max_size=3)
    # A group or chunks of one is another thing to Celery where it is a step of a chain: see `DIFFERENCES`.
    several = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        st.tuples(st.just("chain"), some),
        st.tuples(st.just("pipe"), some),
        st.tuples(st.just("group"), several),
        st.tuples(st.just("chord"), some, inner),
    )


_tasks = st.tuples(
    st.just("task"),
    st.lists(st.integers(0, 9), max_size=2),
    st.dictionaries(st.sampled_from("kl"), st.integers(0, 9), max_size=1),
    st.booleans(),
)
_plans = st.recursive(
    st.one_of(
        _tasks,
        _tasks,
        st.tuples(st.just("map"), st.lists(st.integers(0, 9), min_size=1, max_size=2)),
        st.tuples(st.just("chunks"), st.lists(st.tuples(st.integers(0, 9)), min_size=3, max_size=5)),
        st.tuples(st.just("become"), _tasks),
    ),
    _tree,
    max_leaves=7,
)


def _build(sides: Sides, plan: Plan, *, for_celery: bool) -> Any:
    """Return the plan's canvas, for Celery in the words that say to it what the plan says here."""

    def built(part: Plan) -> Any:
        return _build(sides, part, for_celery=for_celery)

    match plan:
        case "task", args, kwargs, immutable:
            return sides.see(*args, **kwargs).set(immutable=immutable)
        case "map", items:
            return xmap(sides.task("see"), items, app=sides.app)
        case "chunks", items:
            parts: Any = chunks(sides.task("see"), items, 2, app=sides.app)
            return group(list(parts.group().tasks), app=sides.app) if for_celery else parts
        case "become", other:
            return sides.app.signature("become", kwargs={"canvas": built(other)})
        case "chain", steps:
            return sides.steps(*map(built, steps))
        case "pipe", steps:
            return functools.reduce(operator.or_, map(built, steps))
        case "group", members:
            written = [built(member) for member in members]
            return group(list(_flat(written)) if for_celery else written)
        case "chord", header, body:
            written = [built(member) for member in header]
            return chord(list(_flat(written)) if for_celery else written, built(body))
    raise AssertionError(plan)


def _flat(members: Any) -> Iterator[Any]:
    for member in members:
        if isinstance(member, group):
            yield from _flat(member.tasks)
        else:
            yield member


@settings(
    max_examples=scaled(25, 300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plan=_plans)
def test_drawn_canvases(sides: Sides, plan: Plan) -> None:
    ours, celerys = (_build(sides, plan, for_celery=for_celery) for for_celery in (False, True))
    assert sides.ours(ours) == sides.celerys(celerys)
