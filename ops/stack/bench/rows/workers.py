"""Workers: how fast they run no-op tasks and store the results.

What belongs here: that row.
"""

from functools import partial

from stack.bench.contenders import AIO_CELERY, ARQ, CELERY, LIMIT, OURS, TASKIQ
from stack.bench.lab import Lab
from stack.bench.row import Column, Found, Row, Scale, Standing, Table, Turn
from stack.bench.rows.drain import Worker, drain

TYPES = ("classic", "quorum")


def _celery(
    name: str, pool: str, concurrency: int, *, events: bool = False, ignored: bool = False, prefetch: int = 4
) -> Worker:
    return Worker(
        name=f"Celery {name}",
        contender=CELERY,
        options={
            "pool": pool,
            "concurrency": concurrency,
            "prefetch": prefetch,
            "events": events,
            "ignore_result": ignored,
        },
        progress="queue" if ignored else "results",
    )


def _ours(name: str, *, prefetch: int = 4, events: bool = False) -> Worker:
    return Worker(
        name=name,
        contender=OURS,
        options={"pool": "prefork", "concurrency": 2, "prefetch": prefetch, "events": events},
        other_keys=1,  # the history
    )


CELERYS = "Celery prefork -c 2"
"""What ours is compared with: Celery's defaults."""
ASYNCIO = f"{OURS.name}, pool asyncio"
"""Ours for `async def` tasks."""
PEERS = ("taskiq worker", "aio-celery worker")
"""Workers for `async def` tasks on RabbitMQ."""
CONSUMER = "limit: bare asyncio consumer"

WORKERS = (
    _ours(OURS.name),
    _ours(f"{OURS.name}, events on", events=True),
    _ours(f"{OURS.name}, prefetch 1", prefetch=1),
    Worker(
        name=ASYNCIO,
        contender=OURS,
        options={"pool": "asyncio", "concurrency": 200, "prefetch": 1},  # messages at a time, as the limit
        times=10,
        other_keys=1,
    ),
    _celery("prefork -c 1", "prefork", 1),
    _celery("prefork -c 1, events on", "prefork", 1, events=True),
    _celery("prefork -c 2", "prefork", 2),
    _celery("prefork -c 2, events on", "prefork", 2, events=True),
    _celery("prefork -c 2, ignore_result", "prefork", 2, ignored=True),
    _celery("prefork -c 2, ignore_result, events on", "prefork", 2, events=True, ignored=True),
    _celery("solo, prefetch 64", "solo", 1, prefetch=64),
    Worker(name=PEERS[0], contender=TASKIQ, filler=TASKIQ),
    Worker(name=PEERS[1], contender=AIO_CELERY, types=("classic",)),
    Worker(name="arq worker (Redis only)", contender=ARQ, filler=ARQ, progress="arq", types=("classic",)),
    Worker(name=CONSUMER, contender=LIMIT, times=10),
)
_QUICK = {
    "classic": (OURS.name, ASYNCIO, CELERYS, f"{CELERYS}, events on", *(one.name for one in WORKERS[10:])),
    "quorum": (OURS.name, CELERYS),
}


def _turns(scale: Scale) -> list[Turn]:
    count = scale.pick(600, 3000)
    return [
        Turn(
            contender=worker.name,
            case=queue_type,
            round=number,
            act=partial(_act, worker=worker, queue_type=queue_type, count=count),
        )
        for queue_type in TYPES
        for number in range(scale.pick(1, 3))
        for worker in WORKERS
        if queue_type in worker.types and (scale.is_full or worker.name in _QUICK[queue_type])
    ]


def _act(lab: Lab, _: Standing, *, worker: Worker, queue_type: str, count: int) -> Found:
    yield queue_type, {"tasks/s": drain(lab, worker, queue_type, count)}


ROW = Row(
    name="workers",
    title="Workers",
    conditions="The queue is filled with no-op tasks before the worker starts; the rate is that from the "
    "first tenth of the results to the last, read in Redis (with `ignore_result`: what is left "
    "in the queue, in RabbitMQ). Every stored result is compared with its task's argument. "
    "Celery without gossip and mingle, otherwise its defaults (early acks, prefetch 4 per "
    "process; solo 64, because with 4 it mostly waits); ours is that prefork, -c 2, with late "
    "acks and everything that its promises need switched on "
    "(`contenders/async_celery/worker.py`); `pool asyncio` is the same with an `async def` "
    "task, 200 at once in one process, as many as the bare consumer takes; events are those of "
    "`-E`, which nobody consumes. taskiq, aio-celery and arq: one process, their defaults. "
    "aio-celery cannot declare a quorum queue; arq has no broker.",
    contenders=(OURS, CELERY, TASKIQ, AIO_CELERY, ARQ, LIMIT),
    turns=_turns,
    tables=(
        Table(
            title="tasks/s",
            columns=tuple(Column(title=f"{one} queue", case=one, metric="tasks/s") for one in TYPES),
        ),
    ),
    plots={"tasks/s, classic queue": Column(title="tasks/s", case="classic", metric="tasks/s")},
)
