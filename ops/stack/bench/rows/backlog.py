"""Backlog: whether sending stays as fast, and the sender as small, when very many tasks are queued.

What belongs here: that row.
"""

from functools import partial

from stack.bench.contenders import LIMIT, OURS, Contender
from stack.bench.lab import Lab
from stack.bench.row import Column, Found, Row, Scale, Standing, Table, Turn

CASE = "queued tasks"
_CONTENDERS = (OURS, LIMIT)


def _turns(scale: Scale) -> list[Turn]:
    count = scale.pick(10_000, 100_000)
    return [
        Turn(
            contender=contender.name,
            case=CASE,
            round=number,
            act=partial(_act, contender=contender, count=count),
        )
        for number in range(scale.pick(1, 2))
        for contender in _CONTENDERS
    ]


def _act(lab: Lab, _: Standing, *, contender: Contender, count: int) -> Found:
    queue = lab.queue()
    answer = lab.ask(contender, "backlog", queue=queue, count=count)
    lab.broker.require(queue, answer["total"])
    lab.broker.delete(queue)
    yield (
        CASE,
        {
            "tasks": float(count),
            "early tasks/s": answer["early"],
            "late tasks/s": answer["late"],
            "late/early": answer["late"] / answer["early"],
            "early MiB": answer["early_memory"] / 2**20,
            "late MiB": answer["late_memory"] / 2**20,
            "memory growth": answer["late_memory"] / answer["early_memory"],
        },
    )


ROW = Row(
    name="backlog",
    title="100,000 queued tasks",
    conditions="50 concurrent senders fill a classic durable queue that nobody consumes, with 100,000 tasks "
    "(10,000 in quick mode): the rate of the first tenth after 1,000 tasks beside that of the last "
    "tenth, and the process' resident memory after each. Confirms on, persistent; the messages in "
    "the queue are counted. The limit's line shows what of a change is the broker's. The worker's "
    "part of this goal is not measured yet.",
    contenders=_CONTENDERS,
    turns=_turns,
    tables=(
        Table(
            title="first tenth and last tenth",
            columns=(
                Column(title="tasks", case=CASE, metric="tasks"),
                Column(title="/s, first", case=CASE, metric="early tasks/s"),
                Column(title="/s, last", case=CASE, metric="late tasks/s"),
                Column(title="MiB, first", case=CASE, metric="early MiB", digits=1),
                Column(title="MiB, last", case=CASE, metric="late MiB", digits=1),
            ),
        ),
    ),
    plots={
        "tasks/s, first tenth": Column(title="tasks/s", case=CASE, metric="early tasks/s"),
        "tasks/s, last tenth": Column(title="tasks/s", case=CASE, metric="late tasks/s"),
    },
)
