"""Waiters: what it costs to wait for many results that come later, and how late a waiter learns of its own.

How it works: a process waits for all of them at once. For some seconds nothing happens, and its CPU time and the
commands that Redis is given are counted. Then a publisher in another process stores results at a steady pace,
each with the clock at which it was published.

What belongs here: that row.
"""

import time
from functools import partial

import psutil

from stack.bench.contenders import OURS, PUBSUB, REFERENCE, TASKIQ, Contender, ContenderError
from stack.bench.lab import Lab
from stack.bench.results import percentile
from stack.bench.row import Column, Found, Row, Scale, Standing, Table, Turn

COUNTS = (1000, 10000)
_CONTENDERS = (REFERENCE, TASKIQ, OURS, PUBSUB)
_PACE = 500.0  # results/s
_BEGIN, _END = 90.0, 120.0  # s for all to be waiting, for all results to have come


def case(count: int) -> str:
    """Return the name of a case."""
    return f"{count:,} waiters"


def _turns(scale: Scale) -> list[Turn]:
    hold = scale.pick(1.0, 3.0)
    # The many take half a minute each.
    rounds = {1000: scale.pick(1, 3), 10000: scale.pick(0, 1)}
    return [
        Turn(
            contender=contender.name,
            case=case(count),
            round=number,
            act=partial(_act, contender=contender, count=count, hold=hold),
        )
        for count in COUNTS
        for number in range(rounds[count])
        for contender in _CONTENDERS
    ]


def _act(lab: Lab, _: Standing, *, contender: Contender, count: int, hold: float) -> Found:
    lab.store.empty()
    queue = lab.queue(declared=contender is not TASKIQ)
    publishing = contender if contender is TASKIQ else PUBSUB  # in the form in which the waiter's worker stores
    options = {"queue": queue, "count": count, "pace": _PACE, "timeout": _BEGIN + _END}
    with (
        lab.start(publishing, "publish", **options) as publisher,
        lab.start(contender, "wait", **options) as waiter,
    ):
        publisher.answer(_BEGIN)
        ids = waiter.answer(_BEGIN)["ids"]
        process = psutil.Process(waiter.pid)
        commands, cpu, begin = lab.store.commands(), _cpu(process), time.monotonic()
        time.sleep(hold)
        took = time.monotonic() - begin
        values = {
            "CPU %": (_cpu(process) - cpu) / took * 100,
            "Redis commands/s": (lab.store.commands() - commands) / took,
            "connections": float(_connections(process)),
        }
        publisher.tell({"ids": ids})
        delays = waiter.answer(_END)["delays"]
        published = publisher.answer(_END)["published"]
    if not len(delays) == published == count:
        raise ContenderError(f"{published} results were published for {count} waiters, {len(delays)} were woken")
    lab.broker.delete(queue)
    yield (
        case(count),
        {
            **values,
            "wake-up p50 ms": percentile(delays, 0.5) * 1e3,
            "wake-up p99 ms": percentile(delays, 0.99) * 1e3,
        },
    )


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _connections(process: psutil.Process) -> int:
    return sum(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp"))


def _table(count: int) -> Table:
    columns = (
        ("CPU %", "CPU %", 1),
        ("Redis cmd/s", "Redis commands/s", 1),
        ("conn.", "connections", 0),
        ("wake p50 ms", "wake-up p50 ms", 2),
        ("p99 ms", "wake-up p99 ms", 2),
    )
    return Table(
        title=case(count),
        columns=tuple(
            Column(title=title, case=case(count), metric=metric, digits=digits)
            for title, metric, digits in columns
        ),
    )


ROW = Row(
    name="waiters",
    title="Waiters",
    conditions="One process waits for 1,000 (in full mode also 10,000) results at once. CPU, Redis commands and "
    "TCP connections are those of a time in which no result comes, right after the waiting began; "
    "then results are stored and announced at 500/s by another process, as the worker of each would. "
    "Wake-up is from the moment of publishing to the waiter's next line, both on the machine's "
    "monotonic clock; it is the result itself, so every result is checked. The reference polls "
    "`AsyncResult.ready()` from 0.1 s, times 1.5, up to 2 s, then calls `get` and `forget`, as the "
    "original does; taskiq polls every 0.2 s, its default. The limit is one bare pub/sub connection "
    "without tasks, told of every result.",
    contenders=_CONTENDERS,
    turns=_turns,
    tables=tuple(_table(count) for count in COUNTS),
    plots={
        "CPU % of 1,000 waiters": Column(title="CPU %", case=case(1000), metric="CPU %"),
        "Redis commands/s of 1,000 waiters": Column(title="1/s", case=case(1000), metric="Redis commands/s"),
        "wake-up p50 ms": Column(title="ms", case=case(1000), metric="wake-up p50 ms"),
    },
)
