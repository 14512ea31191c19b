"""The words that dashboards are written in: a query, three kinds of panel, a row, a dashboard.

How it works: thin functions over Grafana's builders that fix what all panels share: the data source, the size,
the legend, the colours. A unit and a description are demanded by their signatures.

What belongs here: what more than one dashboard uses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from string import ascii_uppercase
from typing import TypeAlias

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    DataSourceRef,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
)

DATA_SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
"""As in `infra/grafana/provisioning/datasources/prometheus.yml`."""

RATE = "[$__rate_interval]"
"""The window of rates: Grafana makes it four scrapes long at least."""

EMPTY = "Empty when healthy:"
"""How a description begins its sentence on why the panel shows nothing on a healthy system."""

DOCKER_ONLY = "Docker only:"
"""How a description begins its sentence on why the panel shows nothing without containers."""

_TAG = "full-stack-fastapi-celery"

Panel: TypeAlias = timeseries.Panel | stat.Panel | bargauge.Panel


class Unit(StrEnum):
    """Grafana's names of units; a suffix is shown as it stands."""

    SECONDS = "s"
    BYTES = "bytes"
    BYTES_PER_SECOND = "Bps"
    RATIO = "percentunit"
    REQUESTS_PER_SECOND = "reqps"
    OPERATIONS_PER_SECOND = "ops"
    NUMBER = "short"
    TASKS = "suffix: tasks"
    TASKS_PER_SECOND = "suffix: tasks/s"
    MESSAGES = "suffix: messages"
    MESSAGES_PER_SECOND = "suffix: messages/s"
    BURN_RATE = "suffix:x"


@dataclass(frozen=True, kw_only=True)
class Query:
    """A line of a panel: PromQL, and how Grafana names what it finds (`{{label}}` is replaced).

    With `has_exemplars`, the requests that Prometheus kept as examples are points on it, each with its trace.
    """

    legend: str
    expr: str
    has_exemplars: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """From which value on a tile or bar is yellow, and red. With `is_falling`, below them instead."""

    warning: float
    critical: float
    is_falling: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A headline and the panels under it."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link above a dashboard."""

    title: str
    url: str


TO_ONE_TASK = (
    Link(title="Logs (./stack logs --task ID)", url="http://127.0.0.1:5601/app/discover"),
    Link(title="One task's timeline (GET /v1/tasks/ID/timeline)", url="http://127.0.0.1:5000/docs"),
    Link(title="Workers and tasks in Flower", url="http://127.0.0.1:5555"),
)
"""From what is the matter with many tasks to what happened to one."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A dashboard. Its uid is part of its address and never changes; its number only orders the list."""

    uid: str
    number: int
    title: str
    description: str
    rows: Sequence[Row]
    links: Sequence[Link] = ()

    @property
    def full_title(self) -> str:
        """The title as Grafana lists it."""
        return f"D{self.number} {self.title}"


def query(legend: str, expr: str, *, has_exemplars: bool = False) -> Query:
    """Return a query; line breaks in its expression are for its reader here."""
    return Query(legend=legend, expr=" ".join(expr.split()), has_exemplars=has_exemplars)


def lines(
    title: str,
    *queries: Query,
    unit: Unit,
    description: str,
    width: int = 8,
    is_stacked: bool = False,
    unstacked: str | None = None,
) -> Panel:
    """Return a panel of lines over time.

    Args:
        title: Above the panel.
        queries: Their lines.
        unit: Of the vertical axis.
        description: What is shown, and what to conclude from it.
        width: Of 24.
        is_stacked: Whether the lines lie upon each other, as parts of a whole.
        unstacked: The legend of one line that does not: the whole itself.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATA_SOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .min(0)
        .draw_style(GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(40 if is_stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .targets(_targets(queries, is_instant=False))
    )
    if is_stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if unstacked is not None:
        panel.override_by_name(
            unstacked,
            [
                DynamicConfigValue(id_val="custom.stacking", value={"mode": "none", "group": "B"}),
                DynamicConfigValue(id_val="custom.fillOpacity", value=0),
                DynamicConfigValue(id_val="custom.lineWidth", value=2),
            ],
        )
    return panel


def tile(
    title: str,
    expr: str,
    *,
    unit: Unit,
    description: str,
    limits: Limits | None = None,
    width: int = 4,
    decimals: int | None = None,
) -> Panel:
    """Return a panel of one number, as it is now.

    Args:
        title: Above the panel.
        expr: PromQL with one result.
        unit: Of the number.
        description: What is shown, and what to conclude from it.
        limits: From which value on it is coloured; without, never.
        width: Of 24.
        decimals: How many are shown; None leaves that to Grafana.
    """
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATA_SOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE if limits else BigValueColorMode.NONE)
        .thresholds(_thresholds(limits))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .targets(_targets([query(title, expr)], is_instant=True))
    )
    if decimals is not None:
        panel.decimals(decimals)
    return panel


def bars(
    title: str,
    *queries: Query,
    unit: Unit,
    description: str,
    limits: Limits | None = None,
    width: int = 8,
) -> Panel:
    """Return a panel of horizontal bars, one for each thing as it is now.

    Args:
        title: Above the panel.
        queries: Their bars.
        unit: Of the bars' numbers.
        description: What is shown, and what to conclude from it.
        limits: From which value on a bar is coloured; without, never.
        width: Of 24.
    """
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(DATA_SOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .min(0)
        .orientation(VizOrientation.HORIZONTAL)
        .thresholds(_thresholds(limits))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .targets(_targets(queries, is_instant=True))
    )


def quantile(share: float, metric: str, *, by: str = "", matchers: str = "", window: str = RATE) -> str:
    """Return the expression of a histogram's quantile.

    Args:
        share: 0.95 is the value that 95% stay below.
        metric: The histogram's name.
        by: Labels to tell apart, comma-separated.
        matchers: What to look at only, as between the braces of a selector.
        window: Over which time.
    """
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({labels}) (rate({metric}_bucket{{{matchers}}}{window})))"


def mean(metric: str, *, by: str = "", window: str = RATE) -> str:
    """Return the expression of a histogram's mean; nothing where there was nothing to measure."""
    return f"sum by ({by}) (rate({metric}_sum{window})) / (sum by ({by}) (rate({metric}_count{window})) > 0)"


def counted(metric: str, *, by: str) -> str:
    """Return the expression of what a counter has counted over the time shown.

    For counters whose series begin with what they count first: `increase` alone takes that for a beginning.

    Args:
        metric: The counter's name.
        by: Labels to tell apart, comma-separated.
    """
    born = f"max_over_time({metric}[$__range]) unless {metric} offset $__range"
    return f"sum by ({by}) (({born}) or increase({metric}[$__range]))"


def build(board: Board) -> dashboard.Dashboard:
    """Return Grafana's builder of a dashboard."""
    made = (
        dashboard.Dashboard(board.full_title)
        .uid(board.uid)
        .description(board.description)
        .tags([_TAG])
        .editable()
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .links([_other_dashboards(), *(_link(link) for link in board.links)])
    )
    numbers = count(1)  # a panel's address: Grafana would give those without one another at every start
    for row in board.rows:
        made.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            made.with_panel(panel.id(next(numbers)))
    return made


def _targets(queries: Sequence[Query], *, is_instant: bool) -> list[Builder[Dataquery]]:
    made: list[Builder[Dataquery]] = []
    for ref_id, one in zip(ascii_uppercase, queries, strict=False):
        target = prometheus.Dataquery().ref_id(ref_id).datasource(DATA_SOURCE)
        target.expr(one.expr).legend_format(one.legend)
        if one.has_exemplars:
            target.exemplar(True)
        made.append(target.instant() if is_instant else target.range())
    return made


def _thresholds(limits: Limits | None) -> dashboard.ThresholdsConfig:
    steps: list[tuple[float | None, str]]
    if limits is None:
        steps = [(None, "blue")]
    elif limits.is_falling:
        steps = [(None, "red"), (limits.critical, "yellow"), (limits.warning, "green")]
    else:
        steps = [(None, "green"), (limits.warning, "yellow"), (limits.critical, "red")]
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=color) for value, color in steps])
    )


def _other_dashboards() -> dashboard.DashboardLink:
    """Return the menu of all dashboards; whoever follows it keeps the time that is shown."""
    menu = dashboard.DashboardLink("Dashboards").type(DashboardLinkType.DASHBOARDS).tags([_TAG])
    return menu.as_dropdown(True).keep_time(True)


def _link(link: Link) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(link.title).type(DashboardLinkType.LINK).url(link.url).target_blank(True)
