"""HTTP: a FastAPI route that sends a task and answers 202, under uvicorn.

How it works: the servers run during the whole row, idle but for the one whose turn it is; the load generator is a
process of its own on the same machine.

What belongs here: that row.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from stack import ports
from stack.bench.contenders import EMPTY, LIMIT, OURS, REFERENCE, THREAD_POOL, Contender, ContenderError
from stack.bench.lab import Lab
from stack.bench.results import percentile
from stack.bench.row import Column, Found, Row, Scale, Standing, Table, Turn

CASE = "POST -> 202"
_CONNECTIONS = 50
_BODY = '{"multiplicand": 6, "multiplier": 7}'
_CONTENDERS = (REFERENCE, THREAD_POOL, OURS, EMPTY)


def _turns(scale: Scale) -> list[Turn]:
    seconds = scale.pick(0.6, 3.0)
    return [
        Turn(
            contender=contender.name,
            case=CASE,
            round=number,
            act=partial(_act, contender=contender, seconds=seconds),
        )
        for number in range(scale.pick(1, 5))
        for contender in _CONTENDERS
    ]


def _act(lab: Lab, standing: Standing, *, contender: Contender, seconds: float) -> Found:
    port, _, queue = standing[contender.name].partition(" ")
    lab.broker.empty(queue)
    answer = lab.ask(LIMIT, "load", port=int(port), body=_BODY, levels=(_CONNECTIONS,), seconds=seconds)
    if answer["refused"]:
        raise ContenderError(f"{answer['refused']} requests were not answered with 202")
    lab.broker.require(queue, 0 if contender is EMPTY else answer["total"])
    latencies = answer["latencies"]
    yield (
        CASE,
        {
            "requests/s": len(latencies) / answer["seconds"],
            "p50 ms": percentile(latencies, 0.5) * 1e3,
            "p99 ms": percentile(latencies, 0.99) * 1e3,
        },
    )


@contextmanager
def _standing(lab: Lab, __: Scale) -> Iterator[Standing]:
    standing = {
        contender.name: f"{port} {lab.queue()}"
        for contender, port in zip(_CONTENDERS, ports.pick_free(len(_CONTENDERS)), strict=True)
    }
    with ExitStack() as stack:
        servers = []
        for contender in _CONTENDERS:
            port, _, queue = standing[contender.name].partition(" ")
            server = stack.enter_context(lab.start(contender, "http", port=int(port), queue=queue))
            servers.append((server, int(port)))
        for server, number in servers:
            lab.wait(partial(_listens, number), server)
        yield standing


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


ROW = Row(
    name="http",
    title="FastAPI: POST, send, 202",
    conditions="uvicorn (one process, uvloop, httptools, no access log) with a FastAPI route that validates a "
    "small body, sends a confirmed task to a classic durable queue, and answers 202 with its id; 50 "
    "keep-alive connections, each with one request at a time, from a load generator in another "
    "process on the same cores. The empty route does all of it but the sending. Every 202 is found "
    "as a message in the queue.",
    contenders=(*_CONTENDERS, LIMIT),
    turns=_turns,
    tables=(
        Table(
            title="50 connections",
            columns=(
                Column(title="requests/s", case=CASE, metric="requests/s"),
                Column(title="p50 ms", case=CASE, metric="p50 ms", digits=1),
                Column(title="p99 ms", case=CASE, metric="p99 ms", digits=1),
            ),
        ),
    ),
    plots={"requests/s": Column(title="requests/s", case=CASE, metric="requests/s")},
    standing=_standing,
)
