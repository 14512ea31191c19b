"""The workflows of the workflow row, the same for Celery and for ours.

How it works: signatures by name, so that the sender knows no task code; the tasks are those of
`contenders/celery/contender.py`, whose worker runs them.

What belongs here: the canvases, each with the result that it must have.
"""

from typing import Any

from celery import Celery, chain, chord, group

WARM_UP = 2
"""Members of the workflows that are submitted before the clock starts: connections are not what is measured."""

_LINKS = 100  # of the chain


def canvases(app: Celery, queue: str, members: int) -> dict[str, tuple[Any, Any]]:
    """Return each workflow and its result: a chord and a group of `members`, a chain of 100."""

    def task(name: str, *args: int) -> Any:
        return app.signature(name, args=args, queue=queue)

    numbers = range(members)
    links = [task("increment", 0), *(task("increment") for _ in range(_LINKS - 1))]
    return {
        "chord": (chord([task("noop", n) for n in numbers], task("total"), app=app), sum(numbers)),
        "group": (group([task("noop", n) for n in numbers], app=app), list(numbers)),
        "chain": (chain(*links, app=app), _LINKS),
    }
