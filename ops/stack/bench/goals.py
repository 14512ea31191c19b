"""The goals: what our library must reach, as ratios inside one run, and whether it has.

How it works: a goal compares one of our figures with somebody else's in the same row, round by round (against the
best of several: the one with the best median), or with a bound of its own. `share` is how much of the goal is
reached: 1 and more is all of it. A row's limit is the most that this machine, its broker or its server gives
anybody: where the limit itself falls short of a goal, the verdict says so, and what share of the limit is ours.

What belongs here: the goal table, and the verdict.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stack.bench.contenders import (
    AIO_CELERY,
    AIORMQ,
    API,
    AWAITED,
    BARE,
    CALLER,
    CELERY,
    DRAMATIQ,
    EMPTY,
    FAST_WORKER,
    LIMIT,
    NO_OUTBOX,
    OURS,
    PEERS,
    PSQL,
    PUBSUB,
    REFERENCE,
    UNOBSERVED,
)
from stack.bench.results import RowResult
from stack.bench.rows import (
    backlog,
    crud,
    enqueue,
    http,
    imports,
    observability,
    observed_worker,
    outbox,
    pages,
    round_trip,
    waiters,
    workers,
    workflows,
)

ALMOST = 0.8
"""Share of a goal below which it is missed by much: the work is not finished."""

_PEERS = tuple(peer.name for peer in PEERS)
_LONGEST_LAG = 20.0  # ms
_NO_COMMANDS = 1 / 1000  # per second and waiter: what is about none
_FLAT = 1.1  # times the memory at the beginning


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure of ours, what it is compared with, and the bound of the ratio.

    With `against` empty the figure itself is bounded. `is_at_most` says that smaller is better. `other_case` is
    the case of the others where it is not ours; the other may be `ours` itself then. `limit` is who shows, in the
    same case, the most that can be had.
    """

    row: str
    figure: str
    case: str
    metric: str
    bound: float
    against: tuple[str, ...] = ()
    is_at_most: bool = False
    other_case: str = ""
    unit: str = ""
    ours: str = OURS.name
    limit: str = ""

    @property
    def versus(self) -> str:
        """Whom the figure is compared with, in words."""
        if not self.against:
            return "-"
        if self.against == (self.ours,):
            return f"itself: {self.other_case}"
        return "best RabbitMQ peer" if self.against == _PEERS else self.against[0]

    def text(self, value: float) -> str:
        """Return a ratio, or a figure with its unit, as one reads it."""
        if not self.against:
            return f"{value:.3g}{self.unit}"
        return f"1/{1 / value:.3g}" if self.is_at_most and 0 < value < 0.5 else f"{value:.3g}×"

    def is_reached(self, value: float) -> bool:
        """Return whether a ratio, or a figure, is what is wanted."""
        return value <= self.bound if self.is_at_most else value >= self.bound

    @property
    def wanted(self) -> str:
        """The bound, as one reads it."""
        return f"{'≤' if self.is_at_most else '≥'} {self.text(self.bound)}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a goal was met: the ratio and the share of the goal; None where it was not measured.

    `ceiling` is the limit's ratio; None where there is none.
    """

    goal: Goal
    value: float | None
    share: float | None
    versus: str
    ceiling: float | None = None

    @property
    def words(self) -> str:
        """The verdict in plain words."""
        if self.share is None:
            return "not measured"
        if self.share >= 1:
            return "reached"
        kind = "short, but ≥ 80%" if self.share >= ALMOST else "missed"
        if self.value is not None and self.ceiling is not None and not self.goal.is_reached(self.ceiling):
            limit, ours = self.goal.text(self.ceiling), self.value / self.ceiling
            return (
                f"{kind} ({self.share:.0%} of the goal; the limit itself gets {limit}, ours is {ours:.0%} of it)"
            )
        return f"{kind} ({self.share:.0%} of the goal)"


def verdict(goal: Goal, results: Mapping[str, RowResult]) -> Verdict:
    """Return how a goal was met in these results, by row."""
    value, versus = _value(goal, goal.ours, results.get(goal.row))
    ceiling = _value(goal, goal.limit, results.get(goal.row))[0] if goal.limit else None
    share = None
    if value is not None:
        share = goal.bound / value if goal.is_at_most and value else value / goal.bound
        if goal.is_at_most and not value:
            share = 1.0  # nothing at all, as wanted
    return Verdict(goal=goal, value=value, share=share, versus=versus, ceiling=ceiling)


def _value(goal: Goal, who: str, result: RowResult | None) -> tuple[float | None, str]:
    if result is None:
        return None, goal.versus
    if not goal.against:
        return result.median(who, goal.case, goal.metric), goal.versus
    other_case = goal.other_case or goal.case
    medians = {name: result.median(name, other_case, goal.metric) for name in goal.against}
    known = {name: median for name, median in medians.items() if median is not None}
    if not known:
        return None, goal.versus
    best = (min if goal.is_at_most else max)(known, key=lambda name: known[name])
    versus = f"best peer: {best}" if len(goal.against) > 1 else goal.versus
    return result.ratio(who, best, goal.case, goal.metric, other_case), versus


def _enqueue(senders: int, reference: float, peers: float, limit: float) -> Iterator[Goal]:
    for against, bound in (((REFERENCE.name,), reference), (_PEERS, peers), ((LIMIT.name,), limit)):
        yield Goal(
            row=enqueue.ROW.name,
            figure=f"enqueue @{senders}, confirmed",
            case=enqueue.case("classic", senders),
            metric="tasks/s",
            against=against,
            bound=bound,
            limit=LIMIT.name if against != (LIMIT.name,) else "",
        )


def _cpu() -> Iterator[Goal]:
    # Against the limit that lets its callers await a send, as ours does: the other one has no callers.
    for against, bound in (((REFERENCE.name,), 1 / 50), (_PEERS, 1 / 10), ((AWAITED.name,), 1.5)):
        yield Goal(
            row=enqueue.ROW.name,
            figure="CPU per task @50",
            case=enqueue.case("classic", 50),
            metric="CPU us/task",
            against=against,
            bound=bound,
            is_at_most=True,
        )
    yield Goal(
        row=enqueue.ROW.name,
        figure="max loop lag @50",
        case=enqueue.case("classic", 50),
        metric="max lag ms",
        against=(AIORMQ.name,),
        bound=1.0,
        is_at_most=True,
        limit=AWAITED.name,
    )


def _round_trip() -> Iterator[Goal]:
    for worker, against, bound in (
        (round_trip.PREFORK, REFERENCE, 1 / 40),
        (round_trip.PREFORK, DRAMATIQ, 1.0),
        (round_trip.OWN, DRAMATIQ, 1.0),
    ):
        yield Goal(
            row=round_trip.ROW.name,
            figure=f"round trip p50 @1, {worker}",
            case=round_trip.case(worker, 1),
            metric="p50 ms",
            against=(against.name,),
            bound=bound,
            is_at_most=True,
            other_case=round_trip.case(round_trip.OWN if against is DRAMATIQ else worker, 1),
            limit=CALLER.name if worker == round_trip.PREFORK else "",
        )
    for against, bound in ((REFERENCE, 8.0), (AIO_CELERY, 5.0), (FAST_WORKER, 0.7)):
        yield Goal(
            row=round_trip.ROW.name,
            figure="round trips/s @50, fast worker",
            case=round_trip.case(round_trip.FAST, 50),
            metric="results/s",
            against=(against.name,),
            bound=bound,
            limit=CALLER.name,
        )


def _waiters(count: int) -> Iterator[Goal]:
    for metric, against, bound in (
        ("CPU %", REFERENCE, 1 / 25),
        ("wake-up p50 ms", REFERENCE, 1 / 500),
        ("wake-up p50 ms", PUBSUB, 4.0),
    ):
        yield Goal(
            row=waiters.ROW.name,
            figure=f"{waiters.case(count)}: {metric}",
            case=waiters.case(count),
            metric=metric,
            against=(against.name,),
            bound=bound,
            is_at_most=True,
        )
    yield Goal(
        row=waiters.ROW.name,
        figure=f"{waiters.case(count)}: Redis commands",
        case=waiters.case(count),
        metric="Redis commands/s",
        bound=_NO_COMMANDS * count,
        is_at_most=True,
        unit="/s",
    )


def _http() -> Iterator[Goal]:
    for against, bound in ((REFERENCE, 8.0), (EMPTY, 0.6)):
        yield Goal(
            row=http.ROW.name,
            figure="HTTP POST → 202",
            case=http.CASE,
            metric="requests/s",
            against=(against.name,),
            bound=bound,
            limit=EMPTY.name if against is not EMPTY else "",
        )


def _workflows() -> Iterator[Goal]:
    for shape, times in (("chord", 6), ("group", 6), ("chain", 2)):
        yield Goal(
            row=workflows.ROW.name,
            figure=f"submit a {workflows.SIZES[shape]}",
            case=shape,
            metric="submit ms",
            against=(CELERY.name,),
            bound=1 / times,
            is_at_most=True,
        )
        yield Goal(
            row=workflows.ROW.name,
            figure=f"submit a {workflows.SIZES[shape]}: max loop lag",
            case=shape,
            metric="max lag ms",
            bound=_LONGEST_LAG,
            is_at_most=True,
            unit=" ms",
        )


def _backlog() -> Iterator[Goal]:
    for figure, metric, bound, is_at_most in (
        ("very many queued tasks: rate, last / first", "late/early", 0.8, False),
        ("very many queued tasks: memory, last / first", "memory growth", _FLAT, True),
    ):
        yield Goal(
            row=backlog.ROW.name,
            figure=figure,
            case=backlog.CASE,
            metric=metric,
            bound=bound,
            is_at_most=is_at_most,
            unit="×",
        )


def _workers() -> Iterator[Goal]:
    for queue_type in workers.TYPES:
        yield Goal(
            row=workers.ROW.name,
            figure=f"worker, prefork -c 2, no-op with stored result, {queue_type} queue",
            case=queue_type,
            metric="tasks/s",
            against=(workers.CELERYS,),
            bound=1.5,
        )
    for against, bound in ((workers.PEERS, 1.2), ((workers.CONSUMER,), 0.5)):
        yield Goal(
            row=workers.ROW.name,
            figure="worker for async tasks, no-op with stored result",
            case="classic",
            metric="tasks/s",
            against=against,
            bound=bound,
            ours=workers.ASYNCIO,
        )


def _imports() -> Iterator[Goal]:
    yield Goal(
        row=imports.ROW.name,
        figure="import of GeoNames, rows/s",
        case=imports.CASE,
        metric="rows/s",
        against=(PSQL.name,),
        bound=0.5,
        ours=API.name,
    )
    for who in ("API", "worker"):
        yield Goal(
            row=imports.ROW.name,
            figure=f"import of 10 times as many rows: memory of the {who}",
            case=imports.MEMORY,
            metric=f"{who} growth",
            bound=_FLAT,
            is_at_most=True,
            unit="×",
            ours=API.name,
        )


def _crud() -> Iterator[Goal]:
    for case in (crud.ONE, crud.LIST):
        yield Goal(
            row=crud.ROW.name,
            figure=f"{case}, requests/s",
            case=case,
            metric="requests/s",
            against=(BARE.name,),
            bound=0.6,
            ours=API.name,
        )


def _pages() -> Iterator[Goal]:
    for sort in pages.SORTS:
        yield Goal(
            row=pages.ROW.name,
            figure=f"p99 of the far page by {sort}",
            case=pages.case(sort, "far"),
            metric="p99 ms",
            against=(API.name,),
            bound=1.5,
            is_at_most=True,
            other_case=pages.case(sort, "first"),
            ours=API.name,
        )


def _outbox() -> Iterator[Goal]:
    yield Goal(
        row=outbox.ROW.name,
        figure="commits/s, their messages sent",
        case=outbox.RATE,
        metric="sustained/s",
        against=(NO_OUTBOX.name,),
        bound=0.5,
        ours=API.name,
    )
    yield Goal(
        row=outbox.ROW.name,
        figure="answer → task started, p50",
        case=outbox.DELAY,
        metric="p50 ms",
        bound=50.0,
        is_at_most=True,
        unit=" ms",
        ours=API.name,
    )


def _observability() -> Iterator[Goal]:
    yield Goal(
        row=observability.ROW.name,
        figure="HTTP POST → 202 with metrics, logs and ids",
        case=observability.POST,
        metric="requests/s",
        against=(UNOBSERVED.name,),
        bound=0.9,
        ours=API.name,
    )
    yield Goal(
        row=observability.ROW.name,
        figure="worker, no-op, with metrics, logs and ids",
        case=observed_worker.CASE,
        metric="tasks/s",
        against=(observed_worker.UNOBSERVED,),
        bound=0.9,
        ours=observed_worker.OBSERVED,
    )


GOALS: tuple[Goal, ...] = (
    *_enqueue(50, 18, 2.8, 0.85),
    *_enqueue(500, 28, 2.5, 0.85),
    *_enqueue(1, 2.4, 2, 0.95),
    *_cpu(),
    *_round_trip(),
    *(goal for count in waiters.COUNTS for goal in _waiters(count)),
    *_http(),
    *_workflows(),
    *_backlog(),
    *_workers(),
    *_imports(),
    *_crud(),
    *_pages(),
    *_outbox(),
    *_observability(),
)
