"""Round trip: send a task, have it run by a worker, get its result.

How it works: the workers run during the whole row. With Celery's own worker the worker is the limit; the fast
worker (`benchmarks/contenders/limits/consumer.py`) takes it out of the way, so that the clients are compared.
With its own worker, each system is compared as a whole.

What belongs here: that row.
"""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from stack.bench.contenders import (
    AIO_CELERY,
    ARQ,
    CALLER,
    DRAMATIQ,
    FAST_WORKER,
    OURS,
    REFERENCE,
    TASKIQ,
    THREAD_POOL,
    Contender,
)
from stack.bench.lab import Lab
from stack.bench.results import percentile
from stack.bench.row import Column, Found, Row, Scale, Standing, Table, Turn
from stack.bench.rows.drain import Worker, drain

_LEVELS = (1, 50)
PREFORK, FAST, OWN = "prefork -c 2", "fast worker", "own worker"
_PAIRS = (
    (REFERENCE, PREFORK),
    (THREAD_POOL, PREFORK),
    (AIO_CELERY, PREFORK),
    (OURS, PREFORK),
    (CALLER, PREFORK),
    (REFERENCE, FAST),
    (THREAD_POOL, FAST),
    (AIO_CELERY, FAST),
    (OURS, FAST),
    (CALLER, FAST),
    (OURS, OWN),
    (TASKIQ, OWN),
    (DRAMATIQ, OWN),
    (ARQ, OWN),
)
_OWN_WORKERS = tuple(contender for contender, worker in _PAIRS if worker == OWN)
_OPTIONS = {OURS: {"pool": "asyncio", "concurrency": 100, "prefetch": 1}}
_BARE = Worker(name=FAST_WORKER.name, contender=FAST_WORKER)


def case(worker: str, callers: int) -> str:
    """Return the name of a case."""
    return f"{worker} @{callers}"


def _turns(scale: Scale) -> list[Turn]:
    seconds, count = scale.pick(0.4, 2.0), scale.pick(3000, 20000)
    turns = []
    for number in range(scale.pick(1, 3)):
        turns.append(
            Turn(contender=FAST_WORKER.name, case=case(FAST, 50), round=number, act=partial(_limit, count=count))
        )
        turns += [
            Turn(
                contender=contender.name,
                case=worker,
                round=number,
                act=partial(_act, contender=contender, worker=worker, seconds=seconds),
            )
            for contender, worker in _PAIRS
        ]
    return turns


def _act(lab: Lab, standing: Standing, *, contender: Contender, worker: str, seconds: float) -> Found:
    queue = standing[contender.name if worker == OWN else worker]
    answer = lab.ask(contender, "round-trip", queue=queue, levels=_LEVELS, seconds=seconds)
    for level in answer["levels"]:
        yield (
            case(worker, level["callers"]),
            {
                "mean ms": statistics.fmean(level["latencies"]) * 1e3,
                "p50 ms": percentile(level["latencies"], 0.5) * 1e3,
                "p99 ms": percentile(level["latencies"], 0.99) * 1e3,
                "results/s": level["done"] / level["seconds"],
            },
        )


def _limit(lab: Lab, _: Standing, *, count: int) -> Found:
    yield case(FAST, 50), {"results/s": drain(lab, _BARE, "classic", count)}


@contextmanager
def _standing(lab: Lab, _: Scale) -> Iterator[Standing]:
    queues = {worker: lab.queue(consumed=True) for worker in (PREFORK, FAST)}
    queues |= {contender.name: lab.queue(declared=False, consumed=True) for contender in _OWN_WORKERS}
    with ExitStack() as stack:
        workers = {
            PREFORK: lab.start(REFERENCE, "worker", queue=queues[PREFORK], pool="prefork", concurrency=2),
            FAST: lab.start(FAST_WORKER, "worker", queue=queues[FAST]),
        }
        workers |= {
            contender.name: lab.start(
                contender, "worker", queue=queues[contender.name], **_OPTIONS.get(contender, {})
            )
            for contender in _OWN_WORKERS
        }
        for worker in workers.values():
            stack.enter_context(worker)
        for name, worker in workers.items():
            if name != ARQ.name:  # it consumes no queue of the broker; its first tasks wait until it is there
                lab.wait(partial(_is_consumed, lab, queues[name]), worker)
        yield queues


def _is_consumed(lab: Lab, queue: str) -> bool:
    return lab.broker.consumers(queue) > 0


def _table(worker: str) -> Table:
    return Table(
        title=f"{worker}, ms and results/s",
        columns=(
            Column(title="p50 @1", case=case(worker, 1), metric="p50 ms", digits=2),
            Column(title="mean @1", case=case(worker, 1), metric="mean ms", digits=2),
            Column(title="p99 @1", case=case(worker, 1), metric="p99 ms", digits=2),
            Column(title="p50 @50", case=case(worker, 50), metric="p50 ms", digits=1),
            Column(title="p99 @50", case=case(worker, 50), metric="p99 ms", digits=1),
            Column(title="/s @50", case=case(worker, 50), metric="results/s"),
        ),
    )


ROW = Row(
    name="round-trip",
    title="Round trip",
    conditions="Send a no-op task and wait for its result, with 1 and 50 concurrent callers; every result is "
    "compared with its task's argument. Classic durable queue, persistent, confirms on, results "
    "in Redis (arq: all in Redis). `prefork -c 2` is Celery's own worker; the `fast worker` is a "
    "bare asyncio consumer that stores results as Celery's Redis backend does, and its line is "
    "its own rate with no client beside it; `called` is the least that a client can do. Ours (pool "
    "`asyncio`), taskiq, dramatiq (2 processes) and arq run their own workers. Polling intervals "
    "are the libraries' defaults (reference: the original's back-off; taskiq 0.2 s), but for "
    "aio-celery and arq (0.5 s by default), which poll every 10 ms, in their favour.",
    contenders=(REFERENCE, AIO_CELERY, OURS, TASKIQ, DRAMATIQ, ARQ, CALLER, FAST_WORKER),
    turns=_turns,
    tables=tuple(_table(worker) for worker in (PREFORK, FAST, OWN)),
    plots={
        "p50 ms, one caller, prefork": Column(title="ms", case=case(PREFORK, 1), metric="p50 ms"),
        "p50 ms, one caller, own worker": Column(title="ms", case=case(OWN, 1), metric="p50 ms"),
        "results/s, 50 callers, fast worker": Column(title="results/s", case=case(FAST, 50), metric="results/s"),
    },
    standing=_standing,
)
