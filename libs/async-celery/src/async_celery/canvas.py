"""Freezes a canvas: a copy of it bound to our app, with every id fixed, and the tree of those ids.

How it works: Celery gives a task the id that stands in its `task_id` option, whatever it does to the canvas on
the way (a group before a task becomes a chord, nested chains are spliced, the rest of a chain is published by the
worker). So `freeze` copies the canvas, puts an id into every task, and keeps the tree: the result of a workflow
is then found by ids, long after Celery has forgotten its shape. Five traps of Celery are disarmed in the copy:

- a signature made without `app=` belongs to whatever app is current in the thread that publishes it;
- a signature used twice, or frozen before, carries the ids of its first use;
- inside a chain, a group of one is unrolled, and the next task gets a value in place of a list: an explicit
  chord is not;
- nested groups are flattened, in reverse order in a chord's header or after a task: flattened here, in order;
- chunks inside another canvas give the ids of their results: they are the group here that they are elsewhere.

What belongs here: the shape of workflows. Publishing is the transport's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

from celery import canvas as celery_canvas

from async_celery.errors import PayloadError
from async_celery.plain_chain import lasting_options
from async_celery.types import NodeKind, TaskNode

if TYPE_CHECKING:
    from celery import Celery

_LATER_STEPS = 7  # to how many of which one counts


def freeze(
    canvas: Mapping[str, Any],
    app: "Celery",
    *,
    workflow_id: str,
    expires: str,
    new_child_id: Callable[[], str],
) -> tuple["celery_canvas.Signature[Any]", TaskNode]:
    """Return a publishable copy of a canvas, and the tree of its ids. The canvas itself is left as it is.

    Args:
        canvas: any signature, chain, group, chord or chunks, as an object or as its dict.
        app: what the copy is bound to.
        workflow_id: the id of the whole: of the last task, of the group, of the chord's body. Each task has it
            for its root, and what tasks start themselves inherits that: one tombstone reaches all of them.
        expires: an ISO 8601 time, after which a task that has not started never does. Absolute, because a
            worker publishes a chain's later tasks; a task that has its own `expires` keeps it.
        new_child_id: returns a new id for each other task and group.

    Raises:
        PayloadError: there is nothing to run in it, or it is no canvas.
    """
    return _Freezer(app, workflow_id, expires, new_child_id).freeze(canvas, workflow_id)


def has_more_tasks_than(limit: int, canvas: Any) -> bool:
    """Return whether a canvas has more than `limit` tasks, in a time that does not grow with the canvas.

    What only the workers will publish, the later steps of a chain, takes a seventh of the time, and counts so.
    """
    return sum(1 for _ in islice(_tasks(canvas), limit + 1)) > limit


class _Freezer:
    """The recursion, with what is the same on every level."""

    def __init__(self, app: "Celery", root_id: str, expires: str, new_child_id: Callable[[], str]) -> None:
        self._app = app
        self._root_id = root_id
        self._expires = expires
        self._new_child_id = new_child_id

    def freeze(
        self, canvas: Mapping[str, Any], result_id: str
    ) -> tuple["celery_canvas.Signature[Any]", TaskNode]:
        """Copy one node; `result_id` goes to the task, or group, whose result is the node's."""
        if not (isinstance(canvas, Mapping) and "task" in canvas and "options" in canvas):
            raise PayloadError(f"{canvas!r:.200} is no canvas: pass a signature, chain, group or chord")
        match canvas.get("subtask_type"):
            case "chain":
                return self._freeze_chain(canvas, result_id)
            case "group":
                return self._freeze_group(_flattened(_members(canvas)), result_id, lasting_options(canvas))
            case "chord":
                header, body = canvas["kwargs"]["header"], canvas["kwargs"]["body"]
                return self._freeze_chord(header, body, result_id, lasting_options(canvas))
            case _ if _is_chunks(canvas):
                return self.freeze(_group_of(canvas), result_id)
            case _:
                return self._freeze_task(canvas, result_id)

    def _freeze_task(
        self, task: Mapping[str, Any], task_id: str
    ) -> tuple["celery_canvas.Signature[Any]", TaskNode]:
        own = lasting_options(task)
        options = {"expires": self._expires, **own, "task_id": task_id, "root_id": self._root_id}
        copy = _Task({**task, "options": options}, app=self._app)
        return copy, TaskNode(kind=NodeKind.TASK, id=task_id, name=task["task"])

    def _freeze_chain(
        self, chain: Mapping[str, Any], result_id: str
    ) -> tuple["celery_canvas.Signature[Any]", TaskNode]:
        steps = _with_explicit_chords(_spliced(_members(chain)))
        if not steps:
            raise PayloadError("an empty chain has nothing to run")
        ids = [*(self._new_child_id() for _ in steps[1:]), result_id]
        frozen = [self.freeze(step, step_id) for step, step_id in zip(steps, ids, strict=True)]
        # Given as one list, the steps are taken as they are: `chain(*steps)` would fold them with `|`.
        copies: Any = [step for step, _ in frozen]
        copy = celery_canvas._chain(copies, app=self._app, **lasting_options(chain))
        nodes = tuple(node for _, node in frozen)
        if len(nodes) == 1:
            return copy, nodes[0]
        return copy, TaskNode(kind=NodeKind.CHAIN, id=result_id, name=NodeKind.CHAIN, children=nodes)

    def _freeze_group(
        self, members: Iterable[Mapping[str, Any]], group_id: str, options: Mapping[str, Any]
    ) -> tuple["celery_canvas.Signature[Any]", TaskNode]:
        frozen = [self.freeze(member, self._new_child_id()) for member in members]
        if not frozen:
            raise PayloadError("an empty group has nothing to run")
        copy = celery_canvas.group(
            [member for member, _ in frozen], app=self._app, **{**options, "task_id": group_id}
        )
        nodes = tuple(node for _, node in frozen)
        return copy, TaskNode(kind=NodeKind.GROUP, id=group_id, name=NodeKind.GROUP, children=nodes)

    def _freeze_chord(
        self, header: Any, body: Any, body_id: str, options: Mapping[str, Any]
    ) -> tuple["celery_canvas.Signature[Any]", TaskNode]:
        if not body:
            raise PayloadError("a chord without a body has no result: give it one, or send its header as a group")
        members = _members(header) if isinstance(header, Mapping) else header
        frozen = [self.freeze(member, self._new_child_id()) for member in _flattened(members)]
        if not frozen:
            raise PayloadError("a chord with an empty header has nothing to wait for: send its body alone")
        body_copy, body_node = self.freeze(body, body_id)
        copy = celery_canvas.chord([member for member, _ in frozen], body_copy, app=self._app, **options)
        nodes = (*(node for _, node in frozen), body_node)
        return copy, TaskNode(kind=NodeKind.CHORD, id=body_id, name=NodeKind.CHORD, children=nodes)


class _Task(celery_canvas.Signature[Any]):
    """A task of a frozen copy: what Celery does to each of them several times on the way, done cheaply.

    By name: never by the task that may be registered under this name here.
    """

    _app: Any

    def __init__(self, fields: Any, app: Any) -> None:
        super().__init__(fields, app=app)

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> "celery_canvas.Signature[Any]":
        """Copy; not as deeply as Celery does where it makes no difference.

        Celery copies the body of a chord with every task of its header. Nothing changes it any more by then.
        """
        own = self["options"]
        if args or kwargs or options or list in map(type, own.values()):
            return super().clone(args, kwargs, **options)
        return _Task({**self, "kwargs": dict(self["kwargs"]), "options": dict(own)}, app=self._app)

    # Celery's decodes names that are bytes; there are none, and JSON encoders ask for every signature's items.
    items = dict.items

    @property
    def AsyncResult(self) -> Any:  # noqa: N802 (Celery's name)
        """What stands for its result."""
        return self._app.AsyncResult

    @property
    def _apply_async(self) -> Any:
        return partial(self._app.send_task, self["task"])


def _members(canvas: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    members: Iterable[Mapping[str, Any]] = canvas["kwargs"]["tasks"]
    return members


def _is(canvas: Mapping[str, Any], kind: NodeKind) -> bool:
    return isinstance(canvas, Mapping) and canvas.get("subtask_type") == kind


def _is_chunks(canvas: Any) -> bool:
    return isinstance(canvas, Mapping) and canvas.get("task") == "celery.chunks"


def _group_of(chunks: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the group that chunks are short for."""
    parts = list(celery_canvas.chunks(**chunks["kwargs"]).group().tasks)
    for part in parts:
        part.set(**lasting_options(chunks))
    return {"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": parts}, "options": {}}


def _tasks(canvas: Any) -> Iterator[Any]:
    """Yield something for every task of a canvas, and for what is none: `freeze` will refuse it."""
    kind = canvas.get("subtask_type") if isinstance(canvas, Mapping) else None
    if kind == "chain":
        steps = iter(_members(canvas))
        for first in islice(steps, 1):
            yield from _tasks(first)
        yield from islice((task for step in steps for task in _tasks(step)), None, None, _LATER_STEPS)
    elif kind == "group":
        for member in _members(canvas):
            yield from _tasks(member)
    elif kind == "chord":
        header = canvas["kwargs"]["header"]
        for member in _members(header) if isinstance(header, Mapping) else header:
            yield from _tasks(member)
        yield from _tasks(canvas["kwargs"]["body"])
    elif _is_chunks(canvas):
        # It may hold an iterator, and that is `freeze`'s to use up: taken for large.
        yield from repeat(canvas)
    else:
        yield canvas


def _flattened(members: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield a group's members, with those of groups in it in their place."""
    for member in members:
        if _is_chunks(member):
            yield from _members(_group_of(member))
        elif _is(member, NodeKind.GROUP):
            yield from _flattened(_members(member))
        else:
            yield member


def _spliced(steps: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield a chain's steps, with those of chains in it in their place."""
    for step in steps:
        if _is(step, NodeKind.CHAIN):
            yield from _spliced(_members(step))
        else:
            yield _group_of(step) if _is_chunks(step) else step


def _with_explicit_chords(steps: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a chain's steps, with every group that has a successor made a chord with it, as Celery would."""
    merged: list[Mapping[str, Any]] = []
    for step in reversed(list(steps)):
        if _is(step, NodeKind.GROUP) and merged:
            chord = {"header": list(_members(step)), "body": merged.pop(), "kwargs": {}}
            merged.append({"task": "celery.chord", "subtask_type": "chord", "kwargs": chord, "options": {}})
        else:
            merged.append(step)
    return merged[::-1]
