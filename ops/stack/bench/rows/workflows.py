"""Workflows: how long it takes to submit a chord, a group and a chain.

How it works: what is submitted in the timed rounds is run by nobody. A last turn of each contender runs beside a
real worker and compares the workflows' results.

What belongs here: that row.
"""

from functools import partial

from stack.bench.contenders import CELERY, OURS, REFERENCE, Contender, ContenderError
from stack.bench.lab import Lab
from stack.bench.row import Column, Found, Row, Scale, Standing, Table, Turn

MEMBERS = 1000
SHAPES = ("chord", "group", "chain")
SIZES = {"chord": f"chord of {MEMBERS:,}", "group": f"group of {MEMBERS:,}", "chain": "chain of 100"}
_WARM_UP = 2  # members of the workflows that benchmarks/protocol/bench_canvas.py has submitted before
_CONTENDERS = (CELERY, OURS)


def _turns(scale: Scale) -> list[Turn]:
    rounds = scale.pick(1, 5)
    timed = [
        Turn(contender=contender.name, case="submit", round=number, act=partial(_act, contender=contender))
        for number in range(rounds)
        for contender in _CONTENDERS
    ]
    checked = [
        Turn(contender=contender.name, case="result", round=rounds, act=partial(_check, contender=contender))
        for contender in scale.pick(_CONTENDERS[1:], _CONTENDERS)
    ]
    return [*timed, *checked]


def _act(lab: Lab, _: Standing, *, contender: Contender) -> Found:
    lab.store.empty()
    queue = lab.queue()
    answer = lab.ask(contender, "workflows", queue=queue, count=MEMBERS)
    lab.broker.require(queue, 2 * (_WARM_UP + MEMBERS + 1))  # of chord and group the members, of chains the head
    lab.broker.delete(queue)
    for shape in SHAPES:
        values = {"submit ms": answer["seconds"][shape] * 1e3}
        if "lag" in answer:
            values["max lag ms"] = answer["lag"][shape] * 1e3
        yield shape, values


def _check(lab: Lab, _: Standing, *, contender: Contender) -> Found:
    lab.store.empty()
    queue = lab.queue()
    with lab.start(REFERENCE, "worker", queue=queue, pool="prefork", concurrency=2) as worker:
        lab.wait(lambda: lab.broker.consumers(queue) > 0, worker)
        correct = lab.ask(contender, "workflows", queue=queue, count=MEMBERS, way="checked", timeout=60)[
            "correct"
        ]
    lab.broker.delete(queue)
    if wrong := [shape for shape in SHAPES if not correct[shape]]:
        raise ContenderError(f"the result is wrong of: {', '.join(wrong)}")
    yield "result", {"right results": float(len(SHAPES))}


ROW = Row(
    name="workflows",
    title="Workflows: submit",
    conditions="A chord of 1,000 with a body, a group of 1,000 and a chain of 100 of no-op tasks, built before "
    "the clock starts. Celery's own `apply_async` in a plain process without a loop; ours is `await "
    "submit(canvas)`, which returns when every message is confirmed, with the longest lag of its "
    "loop. Classic durable queue, persistent, confirms on, Redis. The messages in the queue are "
    "counted; in one more turn a prefork worker runs them and the results are compared.",
    contenders=(CELERY, OURS),
    turns=_turns,
    tables=(
        Table(
            title="ms until all is sent, longest loop lag in ms, right results (of 3)",
            columns=(
                *(Column(title=shape, case=shape, metric="submit ms", digits=1) for shape in SHAPES),
                *(Column(title=f"lag, {shape}", case=shape, metric="max lag ms", digits=1) for shape in SHAPES),
                Column(title="right", case="result", metric="right results"),
            ),
        ),
    ),
    plots={
        f"ms to submit a {SIZES[shape]}": Column(title="ms", case=shape, metric="submit ms") for shape in SHAPES
    },
)
