"""Freezes a chain of nothing but tasks, without Celery's canvas.

How it works: most chains are plain: tasks one after the other, no groups, links or stamps. Celery walks such a
chain several times, and makes a copy, a result and an id for each step. What comes of it is short, though: a
first task that carries the others in its message, the last one first. So that is made here at once, in one walk,
as `canvas.py` and Celery would make it (`tests/unit/test_plain_chain.py` compares the two). Whatever has anything
that is not looked at here is none of ours: then there is no plain chain, and Celery makes what is sent.

What belongs here: only what Celery is too slow for. All other shapes are `canvas.py`'s.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from async_celery.types import NodeKind, TaskNode

if TYPE_CHECKING:
    from celery import Celery

OPTIONS_OF_ONE_RUN = frozenset(
    {"task_id", "group_id", "group_index", "chord", "root_id", "parent_id", "reply_to"}
)
"""What an earlier freeze or apply_async leaves behind in a signature's options."""


def lasting_options(canvas: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of a signature without those of an earlier run; not to be changed."""
    options: Mapping[str, Any] = canvas["options"]
    if OPTIONS_OF_ONE_RUN.isdisjoint(options):
        return options
    return {name: value for name, value in options.items() if name not in OPTIONS_OF_ONE_RUN}


_FIELDS = frozenset({"task", "args", "kwargs", "options", "subtask_type", "immutable", "chord_size"})
_CELERYS_OWN = "celery."  # chunks, which is not told by its type
_FEWEST = 2  # steps; Celery makes no chain of one
_SHORT = 300  # steps; each takes some 5 µs
_LISTS = (list, tuple)
_PLAIN = frozenset({str, int, float, bool, type(None)})


class PlainChain:
    """A frozen chain of tasks, which can be published."""

    def __init__(self, app: Any, steps: list[dict[str, Any]]) -> None:
        """Take the steps in their order, two or more."""
        self._app = app
        self._steps = steps

    def apply_async(self) -> Any:
        """Publish the first step, with the others."""
        first, *others = self._steps
        options = {**first["options"], "chain": others[::-1]}
        return self._app.send_task(first["task"], first["args"], first["kwargs"], **options)


def freeze_plain_chain(
    canvas: Any, app: "Celery", *, workflow_id: str, expires: str, new_child_id: Callable[[], str]
) -> tuple[PlainChain, TaskNode] | None:
    """Return what `canvas.freeze` would, and takes; None where the canvas is no plain chain."""
    steps = _steps_of(canvas)
    if len(steps) < _FEWEST:
        return None
    own = []
    for step in steps:
        options = _options_of(step)
        if options is None:
            return None
        own.append(options)
    ids = [*(new_child_id() for _ in steps[1:]), workflow_id]
    thread: Any = app.thread_oid
    frozen = []
    nodes = []
    for step, options, task_id in zip(steps, own, ids, strict=True):
        once = {"expires": expires, **options, "task_id": task_id, "root_id": workflow_id, "reply_to": thread}
        frozen.append({**step, "options": once})
        nodes.append(TaskNode(NodeKind.TASK, task_id, step["task"]))
    return PlainChain(app, frozen), TaskNode(
        kind=NodeKind.CHAIN, id=workflow_id, name=NodeKind.CHAIN, children=tuple(nodes)
    )


def is_short_chain(canvas: Any) -> bool:
    """Return whether it is a chain that, if it is plain, is frozen and recorded within 2 ms."""
    return 0 < len(_steps_of(canvas)) <= _SHORT


def _steps_of(canvas: Any) -> Sequence[Any]:
    """Return the steps of a chain that has nothing but steps; none of anything else."""
    if not (isinstance(canvas, Mapping) and canvas.get("subtask_type") == "chain"):
        return ()
    if canvas["args"] or canvas["options"].keys() - OPTIONS_OF_ONE_RUN or canvas["kwargs"].keys() != {"tasks"}:
        return ()
    steps = canvas["kwargs"]["tasks"]
    return steps if isinstance(steps, _LISTS) else ()


def _options_of(step: Any) -> Mapping[str, Any] | None:
    """Return the options of a plain task, without what an earlier run has left; None of anything else."""
    if not (
        isinstance(step, dict)
        and _FIELDS.issuperset(step)
        and "options" in step
        and isinstance(name := step.get("task"), str)
        and not name.startswith(_CELERYS_OWN)
        and step.get("subtask_type") is None
        and isinstance(step.get("args"), _LISTS)
        and isinstance(step.get("kwargs"), dict)
    ):
        return None
    options = lasting_options(step)
    # Links and stamps are lists.
    return options if _PLAIN.issuperset(map(type, options.values())) else None
