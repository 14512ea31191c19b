"""Freezes a canvas: a copy of it bound to our app, with every id fixed, and the tree of those ids.

How it works: Celery gives a task the id that stands in its `task_id` option, whatever it does to the canvas on
the way (a group before a task becomes a chord, nested chains are spliced, the rest of a chain is published by the
worker). So `freeze` copies the canvas, puts an id into every task, and keeps the tree: the result of a workflow
is then found by ids, long after Celery has forgotten its shape. Four traps of Celery are disarmed in the copy:

- a signature made without `app=` belongs to whatever app is current in the thread that publishes it;
- a signature used twice, or frozen before, carries the ids of its first use;
- inside a chain, a group of one is unrolled, and the next task gets a value in place of a list: an explicit
  chord is not;
- nested groups are flattened, in reverse order when they are a chord's header: flattened here, in order.

What belongs here: the shape of workflows. Publishing is the transport's.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery import canvas as celery_canvas

from async_celery.errors import PayloadError
from async_celery.types import NodeKind, TaskNode

if TYPE_CHECKING:
    from celery import Celery

# What an earlier freeze or apply_async leaves behind in a signature's options.
_OPTIONS_OF_ONE_RUN = {"task_id", "group_id", "group_index", "chord", "root_id", "parent_id", "reply_to"}


def freeze(
    canvas: Mapping[str, Any], app: "Celery", *, workflow_id: str, expires: str
) -> tuple["celery_canvas.Signature[Any]", TaskNode]:
    """Return a publishable copy of a canvas, and the tree of its ids. The canvas itself is left as it is.

    Args:
        canvas: any signature, chain, group, chord or chunks, as an object or as its dict.
        app: what the copy is bound to.
        workflow_id: the id of the whole: of the last task, of the group, of the chord's body.
        expires: an ISO 8601 time, after which a task that has not started never does. Absolute, because a
            worker publishes a chain's later tasks; a task that has its own `expires` keeps it.

    Raises:
        PayloadError: there is nothing to run in it, or it is no canvas.
    """
    return _Freezer(app, expires).freeze(canvas, workflow_id)


class _Freezer:
    """The recursion, with what is the same on every level."""

    def __init__(self, app: "Celery", expires: str) -> None:
        self._app = app
        self._expires = expires

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
                return self._freeze_group(_flattened(_members(canvas)), result_id, _options(canvas))
            case "chord":
                header, body = canvas["kwargs"]["header"], canvas["kwargs"]["body"]
                return self._freeze_chord(header, body, result_id, _options(canvas))
            case _ if canvas["task"] == "celery.chunks":
                chunks = celery_canvas.chunks(**canvas["kwargs"], app=self._app)
                return self.freeze(chunks.group(), result_id)
            case _:
                return self._freeze_task(canvas, result_id)

    def _freeze_task(
        self, task: Mapping[str, Any], task_id: str
    ) -> tuple["celery_canvas.Signature[Any]", TaskNode]:
        options = {"expires": self._expires, **_options(task), "task_id": task_id}
        copy = celery_canvas.Signature.from_dict({**task, "options": options}, app=self._app)
        return copy, TaskNode(kind=NodeKind.TASK, id=task_id, name=task["task"])

    def _freeze_chain(
        self, chain: Mapping[str, Any], result_id: str
    ) -> tuple["celery_canvas.Signature[Any]", TaskNode]:
        steps = _with_explicit_chords(_spliced(_members(chain)))
        if not steps:
            raise PayloadError("an empty chain has nothing to run")
        ids = [*(_child_id() for _ in steps[1:]), result_id]
        frozen = [self.freeze(step, step_id) for step, step_id in zip(steps, ids, strict=True)]
        # Given as one list, the steps are taken as they are: `chain(*steps)` would fold them with `|`.
        copies: Any = [step for step, _ in frozen]
        copy = celery_canvas._chain(copies, app=self._app, **_options(chain))
        nodes = tuple(node for _, node in frozen)
        if len(nodes) == 1:
            return copy, nodes[0]
        return copy, TaskNode(kind=NodeKind.CHAIN, id=result_id, name=NodeKind.CHAIN, children=nodes)

    def _freeze_group(
        self, members: Iterable[Mapping[str, Any]], group_id: str, options: Mapping[str, Any]
    ) -> tuple["celery_canvas.Signature[Any]", TaskNode]:
        frozen = [self.freeze(member, _child_id()) for member in members]
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
        frozen = [self.freeze(member, _child_id()) for member in _flattened(members)]
        if not frozen:
            raise PayloadError("a chord with an empty header has nothing to wait for: send its body alone")
        body_copy, body_node = self.freeze(body, body_id)
        copy = celery_canvas.chord([member for member, _ in frozen], body_copy, app=self._app, **options)
        nodes = (*(node for _, node in frozen), body_node)
        return copy, TaskNode(kind=NodeKind.CHORD, id=body_id, name=NodeKind.CHORD, children=nodes)


def _child_id() -> str:
    return str(uuid4())


def _options(canvas: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in canvas["options"].items() if name not in _OPTIONS_OF_ONE_RUN}


def _members(canvas: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    members: Iterable[Mapping[str, Any]] = canvas["kwargs"]["tasks"]
    return members


def _is(canvas: Mapping[str, Any], kind: NodeKind) -> bool:
    return isinstance(canvas, Mapping) and canvas.get("subtask_type") == kind


def _flattened(members: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield a group's members, with those of groups in it in their place."""
    for member in members:
        if _is(member, NodeKind.GROUP):
            yield from _flattened(_members(member))
        else:
            yield member


def _spliced(steps: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield a chain's steps, with those of chains in it in their place."""
    for step in steps:
        if _is(step, NodeKind.CHAIN):
            yield from _spliced(_members(step))
        else:
            yield step


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
