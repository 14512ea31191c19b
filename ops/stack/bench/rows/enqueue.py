"""Enqueue: how fast tasks are sent, and what that costs the sender's process and its event loop.

What belongs here: that row.
"""

from functools import partial

from stack.bench.broker import FORMER
from stack.bench.contenders import (
    AIO_CELERY,
    AIORMQ,
    AWAITED,
    BLOCKING,
    DRAMATIQ,
    LIMIT,
    OURS,
    REFERENCE,
    TASKIQ,
    THREAD_POOL,
    Contender,
)
from stack.bench.lab import Lab
from stack.bench.row import Column, Found, Row, Scale, Standing, Table, Turn

LEVELS = (1, 50, 500)
TYPES = ("classic", "quorum", FORMER)
_CONTENDERS = (REFERENCE, BLOCKING, THREAD_POOL, TASKIQ, AIO_CELERY, DRAMATIQ, AIORMQ, OURS, AWAITED, LIMIT)
_FEW = (REFERENCE, TASKIQ, OURS, LIMIT)
_DECLARE_THEMSELVES = (TASKIQ.name, DRAMATIQ.name)


def case(queue_type: str, senders: int) -> str:
    """Return the name of a case."""
    return f"{queue_type} @{senders}"


def _turns(scale: Scale) -> list[Turn]:
    seconds = scale.pick(0.2, 1.0)
    few = scale.pick(1, 2)
    rounds = {"classic": scale.pick(1, 5), "quorum": few, FORMER: few}
    return [
        Turn(
            contender=contender.name,
            case=queue_type,
            round=number,
            act=partial(_act, contender=contender, queue_type=queue_type, seconds=seconds),
        )
        for queue_type in TYPES
        for number in range(rounds[queue_type])
        for contender in _contenders(queue_type, scale)
    ]


def _contenders(queue_type: str, scale: Scale) -> tuple[Contender, ...]:
    is_few = queue_type == FORMER or (queue_type == "quorum" and not scale.is_full)
    return _FEW if is_few else _CONTENDERS


def _act(lab: Lab, _: Standing, *, contender: Contender, queue_type: str, seconds: float) -> Found:
    queue = lab.queue(queue_type, declared=contender.name not in _DECLARE_THEMSELVES)
    options = {"queue": queue, "queue_type": queue_type.partition(" ")[0], "levels": LEVELS, "seconds": seconds}
    answer = lab.ask(contender, "enqueue", **options)
    lab.broker.require(queue, answer["total"])
    lab.broker.delete(queue)
    for level in answer["levels"]:
        yield (
            case(queue_type, level["senders"]),
            {
                "tasks/s": level["sent"] / level["seconds"],
                "CPU us/task": level["cpu"] / level["sent"] * 1e6,
                "max lag ms": level["lag"] * 1e3,
            },
        )


def _table(queue_type: str) -> Table:
    return Table(
        title=f"{queue_type} queue, tasks/s",
        columns=(
            *(
                Column(
                    title=f"@{senders}",
                    case=case(queue_type, senders),
                    metric="tasks/s",
                )
                for senders in LEVELS
            ),
            Column(title="CPU µs @50", case=case(queue_type, 50), metric="CPU us/task"),
            Column(title="lag ms @50", case=case(queue_type, 50), metric="max lag ms"),
        ),
    )


ROW = Row(
    name="enqueue",
    title="Enqueue",
    conditions="One process sends no-op tasks to a durable queue that nobody consumes, with 1, 50 and 500 "
    "concurrent senders, each awaiting its send. Persistent messages and publisher confirms in every line; a "
    "send counts when it is confirmed. Celery's lines and ours have Redis as result backend. Classic queues "
    "are those of RabbitMQ 4, by a policy on older brokers (docs/decisions/0011); `classic of 3.10` are "
    "those that Debian's makes by itself. The harness counts the messages in the queue after every turn. "
    "Standard event loop. CPU is the process' own, all threads. `blocking` gives the loop no turn until "
    "it has finished: its lag is the length of the burst. dramatiq and the thread pool use 6 threads on 2 "
    "cores. The limits write prebuilt bytes to a raw connection: one keeps a window of messages "
    "unconfirmed, without tasks or futures; `awaited` gives every send a coroutine and a future, as any "
    "client must that lets its callers await a send, but encodes nothing.",
    contenders=_CONTENDERS,
    turns=_turns,
    tables=tuple(_table(queue_type) for queue_type in TYPES),
    plots={
        **{
            f"tasks/s, {senders} concurrent, classic": Column(
                title="tasks/s", case=case("classic", senders), metric="tasks/s"
            )
            for senders in LEVELS
        },
        "CPU µs per task, 50 concurrent": Column(title="µs", case=case("classic", 50), metric="CPU us/task"),
    },
)
