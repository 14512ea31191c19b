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

_FIELDS = frozenset({"task", "args", "kwargs", "options", "subtask_type", "immutable", "chord_size"})
_CELERYS_OWN = "celery."  # chunks, which is not told by its type
SHORT = 300
"""As many steps are frozen, and recorded, within 2 ms."""
_PLAIN = (str, int, float, bool, type(None))


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
    steps: Sequence[Any], app: "Celery", *, workflow_id: str, expires: str, new_child_id: Callable[[], str]
) -> tuple[PlainChain, TaskNode]:
    """Return what `canvas.freeze` would of a chain with these steps (`plain_steps`), and takes."""
    ids = [*(new_child_id() for _ in steps[1:]), workflow_id]
    thread: Any = app.thread_oid
    frozen = [
        {
            **step,
            "options": {
                "expires": expires,
                **{name: value for name, value in step["options"].items() if name not in OPTIONS_OF_ONE_RUN},
                "task_id": task_id,
                "root_id": workflow_id,
                "reply_to": thread,
            },
        }
        for step, task_id in zip(steps, ids, strict=True)
    ]
    nodes = tuple(
        TaskNode(kind=NodeKind.TASK, id=task_id, name=step["task"])
        for step, task_id in zip(steps, ids, strict=True)
    )
    return PlainChain(app, frozen), TaskNode(
        kind=NodeKind.CHAIN, id=workflow_id, name=NodeKind.CHAIN, children=nodes
    )


def plain_steps(canvas: Any) -> Sequence[Any] | None:
    """Return the steps of a plain chain, None where the canvas is none."""
    if not (isinstance(canvas, Mapping) and canvas.get("subtask_type") == "chain"):
        return None
    if canvas["args"] or canvas["options"].keys() - OPTIONS_OF_ONE_RUN or canvas["kwargs"].keys() != {"tasks"}:
        return None
    steps = canvas["kwargs"]["tasks"]
    is_plain = isinstance(steps, list | tuple) and len(steps) > 1 and all(map(_is_plain_task, steps))
    return steps if is_plain else None


def _is_plain_task(step: Any) -> bool:
    return (
        isinstance(step, dict)
        and step.keys() <= _FIELDS
        and "options" in step
        and isinstance(step.get("task"), str)
        and not step["task"].startswith(_CELERYS_OWN)
        and step.get("subtask_type") is None
        and isinstance(step.get("args"), list | tuple)
        and isinstance(step.get("kwargs"), dict)
        # Links and stamps are lists; what an earlier run has left is dropped.
        and all(
            isinstance(value, _PLAIN) or name in OPTIONS_OF_ONE_RUN for name, value in step["options"].items()
        )
    )
