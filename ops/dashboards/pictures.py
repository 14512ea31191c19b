"""Dashboards as pictures: each JSON file drawn as a PNG from a live Prometheus, where no Grafana is at hand.

How it works: panels lie where their JSON says, on a figure of 24 cells' width. Lines, tiles and bars are drawn
with the title, unit, legend and colours that Grafana would use. A panel without data says so.

What belongs here: drawing. What is drawn is in the JSON.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from dashboards import units
from dashboards.model import Area, Dashboard, Panel, read
from dashboards.prometheus import Series, Span, ask

_COLUMNS = 24
_CELL_WIDTH, _CELL_HEIGHT = 0.75, 0.36  # inches
_MARGIN = 0.35  # inches around the whole
_HEAD = 0.75  # inches above it, for the title
_DPI = 72
_SHADES = 12  # of each colour, from a panel's to its own: letters' edges, and what is filled
_MOST_IN_LEGEND = 7
_MOST_BARS = 12
_MOST_LETTERS = 54  # of a bar's name
_LETTER = 0.062  # inches, of the numbers beside lines
_LEGEND_LINE = 0.055  # of the panel's height
_BACKGROUND, _PANEL, _TEXT, _FAINT, _GRID = "#111217", "#181b1f", "#ccccdc", "#6e7079", "#2c3235"
_COLOURS = {"green": "#73bf69", "yellow": "#f2cc0c", "red": "#f2495c", "blue": "#5794f2"}
_LINES = (
    "#73bf69",
    "#f2cc0c",
    "#5794f2",
    "#ff9830",
    "#f2495c",
    "#b877d9",
    "#56a8a5",
    "#ffa6b0",
    "#8ab8ff",
    "#96d98d",
)
"""Grafana's classic palette."""


def draw_all(source: Path, url: str, folder: Path, span: Span) -> Iterator[Path]:
    """Draw every dashboard of a folder.

    Args:
        source: The folder with the JSON files.
        url: Prometheus' address.
        folder: Where the pictures go.
        span: The time to show.

    Yields:
        Each picture as it is written.

    Raises:
        PrometheusError: It does not answer, or refuses a query.
    """
    for path in sorted(source.glob("*.json")):
        picture = folder / f"{path.stem}.png"
        draw(read(path), url, picture, span)
        yield picture


def draw(dashboard: Dashboard, url: str, picture: Path, span: Span) -> None:
    """Draw one dashboard.

    Raises:
        PrometheusError: It does not answer, or refuses a query.
    """
    areas = [one.area for one in dashboard.rows] + [one.area for one in dashboard.panels]
    cells = max(area.y + area.height for area in areas)
    width = _COLUMNS * _CELL_WIDTH + 2 * _MARGIN
    height = cells * _CELL_HEIGHT + 2 * _MARGIN + _HEAD
    with plt.rc_context({"font.size": 8, "text.color": _TEXT, "axes.labelcolor": _TEXT}):
        figure = plt.figure(figsize=(width, height), facecolor=_BACKGROUND)
        try:
            _write_head(figure, dashboard, span, width, height)
            for row in dashboard.rows:
                left, bottom, _, high = _place(row.area, width, height)
                figure.text(left, bottom + high / 2, row.title, fontsize=11, weight="bold", va="center")
            for panel in dashboard.panels:
                found = [series for target in panel.targets for series in ask(url, target, span)]
                _draw_panel(figure, panel, found, _place(panel.area, width, height), span)
            _save(figure, picture)
        finally:
            plt.close(figure)


def _save(figure: Figure, picture: Path) -> None:
    """Write the picture; a PNG in few colours, which makes it a third as large and looks the same."""
    if picture.suffix != ".png":
        figure.savefig(picture, facecolor=_BACKGROUND)
        return
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI, facecolor=_BACKGROUND)
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(palette=_palette(), dither=Image.Dither.NONE)
        few.save(picture, optimize=True)


def _palette() -> Image.Image:
    """Return the colours of every picture, as Pillow wants them."""
    colours = {_BACKGROUND, _TEXT, _FAINT, _GRID, *_COLOURS.values(), *_LINES}
    panel = np.array(to_rgb(_PANEL))
    shades = [
        panel + (np.array(to_rgb(colour)) - panel) * shade / (_SHADES - 1)
        for colour in sorted(colours)
        for shade in range(_SHADES)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette((np.array(shades) * 255).round().astype(np.uint8).tobytes())
    return palette


def _write_head(figure: Figure, dashboard: Dashboard, span: Span, width: float, height: float) -> None:
    left, top = _MARGIN / width, 1 - _MARGIN / height
    end = datetime.fromtimestamp(span.end, UTC)
    figure.text(left, top, dashboard.title, fontsize=15, weight="bold", va="top")
    figure.text(left, top - 0.36 / height, dashboard.description, fontsize=9, color=_FAINT, va="top")
    shown = f"{span.seconds / 60:g} minutes until {end:%Y-%m-%d %H:%M:%S} UTC"
    figure.text(1 - left, top, shown, fontsize=9, color=_FAINT, va="top", ha="right")


def _place(area: Area, width: float, height: float) -> tuple[float, float, float, float]:
    """Return left, bottom, width and height as shares of the figure."""
    left = (_MARGIN + area.x * _CELL_WIDTH) / width
    top = 1 - (_MARGIN + _HEAD + area.y * _CELL_HEIGHT) / height
    high = area.height * _CELL_HEIGHT / height
    return left, top - high, area.width * _CELL_WIDTH / width, high


def _draw_panel(
    figure: Figure,
    panel: Panel,
    found: Sequence[Series],
    place: tuple[float, float, float, float],
    span: Span,
) -> None:
    left, bottom, wide, high = place
    gap_x, gap_y = 0.06 / figure.get_figwidth(), 0.06 / figure.get_figheight()
    frame = figure.add_axes((left + gap_x, bottom + gap_y, wide - 2 * gap_x, high - 2 * gap_y))
    frame.set_facecolor(_PANEL)
    frame.set_xticks([])
    frame.set_yticks([])
    frame.spines[:].set_visible(False)
    inch_x, inch_y = 1 / (wide * figure.get_figwidth()), 1 / (high * figure.get_figheight())
    frame.text(0.1 * inch_x, 1 - 0.08 * inch_y, panel.title, fontsize=9, weight="bold", va="top")
    if not found:
        frame.text(0.5, 0.45, "No data", fontsize=12, color=_FAINT, ha="center", va="center")
    elif panel.kind == "stat":
        value = found[0].last
        text = units.write(value, panel.unit, panel.decimals)
        frame.text(0.5, 0.38, text, fontsize=20, color=_colour(panel, value), ha="center", va="center")
    elif panel.kind == "bargauge":
        _draw_bars(frame, panel, found)
    else:
        _draw_lines(frame, panel, found, span)


def _draw_bars(frame: Axes, panel: Panel, found: Sequence[Series]) -> None:
    largest = max((series.last for series in found), default=0.0)
    shown = sorted(found, key=lambda series: -series.last)[:_MOST_BARS] if len(found) > _MOST_BARS else found
    names = [_short(series.name, _MOST_LETTERS) for series in shown][::-1]
    left = min(max(map(len, names)) * _LETTER / (panel.area.width * _CELL_WIDTH) + 0.03, 0.6)
    axes = frame.inset_axes((left, 0.06, 0.82 - left, 0.80))
    axes.set_facecolor(_PANEL)
    values = [series.last for series in shown][::-1]
    axes.barh(range(len(shown)), values, color=[_colour(panel, value) for value in values], height=0.6)
    for position, value in enumerate(values):
        text = units.write(value, panel.unit, panel.decimals)
        axes.text(max(value, 0) + largest * 0.02, position, text, va="center", color=_colour(panel, value))
    axes.set_yticks(range(len(shown)), names, color=_TEXT, fontsize=7)
    axes.set_xlim(0, largest or 1)
    axes.set_ylim(-0.6, max(len(shown), 4) - 0.4)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_lines(frame: Axes, panel: Panel, found: Sequence[Series], span: Span) -> None:
    shown = sorted(found, key=lambda series: -series.last)[:_MOST_IN_LEGEND]
    legend = [series for series in found if series in shown]
    room = _LEGEND_LINE * len(legend)
    # Room for the longest number that may stand there: "125 MiB" is two letters more than "1.55 B".
    letters = len(units.write(1.55, panel.unit)) + 3
    left = letters * _LETTER / (panel.area.width * _CELL_WIDTH)
    axes = frame.inset_axes((left, 0.11 + room, 0.98 - left, 0.76 - room))
    axes.set_facecolor(_PANEL)
    colours = {series.name: _LINES[place % len(_LINES)] for place, series in enumerate(found)}
    if panel.is_stacked:
        _stack(axes, [one for one in found if one.name not in panel.unstacked], colours)
    for series in found:
        if not panel.is_stacked or series.name in panel.unstacked:
            times, values = zip(*_with_gaps(series, span), strict=True)
            marker = "o" if len(values) == 1 else None
            wide = 2.0 if panel.is_stacked else 1.2
            axes.plot(times, values, color=colours[series.name], linewidth=wide, marker=marker, markersize=2)
    begin, end = (datetime.fromtimestamp(t, UTC) for t in (span.end - span.seconds, span.end))
    axes.set_xlim(begin, end)  # type: ignore[arg-type]  # its stubs know numbers only; dates are documented
    axes.set_ylim(bottom=0 if axes.get_ylim()[0] >= 0 or _is_all_positive(found) else None)
    if not any(value for series in found for _, value in series.points):
        axes.set_ylim(0, 1)  # not thousandths of what is all 0
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: units.write(value, panel.unit)))
    locator = AutoDateLocator(maxticks=6)  # type: ignore[no-untyped-call]  # matplotlib's dates have no types
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, show_offset=False)  # type: ignore[no-untyped-call]  # as above
    axes.xaxis.set_major_formatter(formatter)
    axes.tick_params(colors=_FAINT, labelsize=7, length=0)
    axes.grid(color=_GRID, linewidth=0.5)
    axes.spines[:].set_visible(False)
    for place, series in enumerate(legend):
        height = 0.03 + room - _LEGEND_LINE * (place + 1)
        frame.text(0.03, height, "—", color=colours[series.name], weight="bold")
        frame.text(0.06, height, _short(series.name, 60), fontsize=7)
        frame.text(0.97, height, units.write(series.last, panel.unit), fontsize=7, ha="right")
    if len(found) > len(legend):
        frame.text(0.97, 0.93, f"{len(found) - len(legend)} more lines", fontsize=7, color=_FAINT, ha="right")


def _stack(axes: Axes, found: Sequence[Series], colours: dict[str, str]) -> None:
    """Draw lines upon each other; where one has no value, it counts as 0, as in Grafana."""
    times = sorted({time for series in found for time, _ in series.points})
    values = [[dict(series.points).get(time, 0.0) for time in times] for series in found]
    if times:
        at = [datetime.fromtimestamp(time, UTC) for time in times]
        fills = [colours[one.name] for one in found]
        axes.stackplot(at, *values, colors=fills, alpha=0.55, linewidth=0.6)  # type: ignore[arg-type]  # as above


def _with_gaps(series: Series, span: Span) -> Iterator[tuple[datetime, float]]:
    """Yield a line's points, and one that is no number where some are missing: the line is not drawn there."""
    last = None
    for time, value in series.points:
        if last is not None and time - last > 1.5 * span.step:
            yield datetime.fromtimestamp(last + span.step, UTC), math.nan
        yield datetime.fromtimestamp(time, UTC), value
        last = time


def _is_all_positive(found: Sequence[Series]) -> bool:
    return all(value >= 0 for series in found for _, value in series.points)


def _colour(panel: Panel, value: float) -> str:
    colour = "blue"
    for at, name in panel.steps:
        if at is None or value >= at:
            colour = name
    return _COLOURS[colour]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
