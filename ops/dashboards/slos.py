"""D8, SLOs and error budgets: what is promised, what is left of the budget, how fast it burns."""

from dashboards.panels import Board, Limits, Panel, Row, Unit, lines, query, tile

_WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
_PROMISES = {
    "api": "99.9% of the requests are not answered 5xx",
    "tasks": "99% of the tasks succeed",
    "start": "95% of the tasks start within 5 s",
}


def _row(slo: str, promise: str) -> Row:
    selector = f'{{slo="{slo}"}}'
    return Row(
        title=promise,
        panels=(
            tile(
                "Kept, in 3 days",
                f"1 - slo:burn_rate:3d{selector} * on (slo) slo:budget:ratio",
                unit=Unit.RATIO,
                description=f"Promised: {promise}. 100% when nothing happened.",
                width=6,
                decimals=3,
            ),
            tile(
                "Budget left, of 3 days",
                f"1 - slo:burn_rate:3d{selector}",
                unit=Unit.RATIO,
                description="What may still fail; below 0 the promise of these 3 days is broken.",
                limits=Limits(warning=0.5, critical=0, is_falling=True),
                width=6,
            ),
            tile(
                "Burn rate, 1 hour",
                f"slo:burn_rate:1h{selector}",
                unit=Unit.BURN_RATE,
                description="Times faster than allowed; 14.4 pages.",
                limits=Limits(warning=1, critical=14.4),
                width=6,
                decimals=1,
            ),
            tile(
                "Burn rate, 5 minutes",
                f"slo:burn_rate:5m{selector}",
                unit=Unit.BURN_RATE,
                description="Whether it still goes on.",
                limits=Limits(warning=1, critical=14.4),
                width=6,
                decimals=1,
            ),
            _burn(selector),
            _events(selector),
        ),
    )


def _burn(selector: str) -> Panel:
    return lines(
        "Burn rates",
        *(query(window, f"slo:burn_rate:{window}{selector}") for window in _WINDOWS),
        unit=Unit.BURN_RATE,
        description="1h and 5m over 14.4, or 6h and 30m over 6: a page. 1d and 2h over 3, or 3d and 6h over 1: "
        "a ticket.",
        width=16,
    )


def _events(selector: str) -> Panel:
    return lines(
        "Events",
        query("all", f"slo:events:rate5m{selector}"),
        query("failures", f"slo:failures:rate5m{selector}"),
        query("enough for alerts", f"slo:enough_events:rate{selector}"),
        unit=Unit.OPERATIONS_PER_SECOND,
        description="Per second. Below what is enough, no burn rate raises an alert.",
    )


BOARD = Board(
    uid="fsfc-slos",
    number=8,
    title="SLOs and error budgets",
    description="What is promised, how much of what may fail is left, and how fast it is used up.",
    rows=tuple(_row(slo, promise) for slo, promise in _PROMISES.items()),
)
