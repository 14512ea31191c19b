"""The report: RESULTS.md, made from the rows' files alone; and the same, shorter, on the terminal.

How it works: goals first, with their verdicts; then each row: what really ran, its tables (medians over the
rounds), its plot. Contenders are the lines, in the order in which they took their turns.

What belongs here: words and tables, no measuring.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import rich.table
from rich.console import Console

from stack.bench.goals import GOALS, Verdict, verdict
from stack.bench.results import RowResult
from stack.bench.row import Column, Row, Table
from stack.bench.rows import ROWS

FILE, FOLDER = "RESULTS.md", "results"

_HEAD = """\
# Benchmark results

Written by `./stack bench`; the figures of one row come from one run on one machine, and only their ratios mean
something. What each row runs, and how to add a contender: [README.md](README.md). Goals bind on classic durable
queues as RabbitMQ 4 has them; quorum queues, and classic ones as Debian's RabbitMQ makes them, are shown beside
their own limit. Where a row's limit itself falls short of a goal, the verdict says so. A ratio is the median of
the rounds' ratios, a figure the median of the rounds.
"""


def read(folder: Path) -> dict[str, RowResult]:
    """Return the results in a folder by row."""
    found = (folder / f"{row.name}.json" for row in ROWS)
    results = [RowResult.read(path) for path in found if path.exists()]
    return {result.row: result for result in results}


def markdown(results: dict[str, RowResult]) -> str:
    """Return RESULTS.md."""
    parts = [_HEAD, "## Goals\n", _goals(results)]
    for row in ROWS:
        if row.name in results:
            parts += _row(row, results[row.name])
    parts += ["## Machine and versions\n", *_surroundings(results)]
    return "\n".join(parts)


def show(row: Row, result: RowResult, console: Console) -> None:
    """Print a row's tables, and what failed."""
    for table in row.tables:
        lines = list(_lines(table, result))
        if lines:
            shown = rich.table.Table(title=f"{row.title}: {table.title}", box=None, title_justify="left")
            shown.add_column("", no_wrap=True)
            for column in table.columns:
                shown.add_column(column.title, justify="right")
            for line in lines:
                shown.add_row(*line)
            console.print(shown)
            console.print()
    for one in result.failures():
        console.print(f"failed: {one.contender}, {one.case}: {one.failure}", style="red", markup=False)


def show_goals(results: dict[str, RowResult], rows: Sequence[Row], console: Console) -> None:
    """Print the verdicts on the goals of these rows."""
    names = {row.name for row in rows}
    shown = rich.table.Table(title="Goals", box=None, title_justify="left")
    for title in ("", "against", "measured", "goal", ""):
        shown.add_column(title, justify="right" if title in ("measured", "goal") else "left")
    for one in _verdicts(results):
        if one.goal.row in names:
            shown.add_row(one.goal.figure, one.versus, _value(one), one.goal.wanted, one.words)
    console.print(shown)


def _verdicts(results: dict[str, RowResult]) -> Iterator[Verdict]:
    return (verdict(goal, results) for goal in GOALS)


def _value(one: Verdict) -> str:
    return "-" if one.value is None else one.goal.text(one.value)


def _goals(results: dict[str, RowResult]) -> str:
    lines = ["| figure | against | measured | goal | |", "|---|---|---:|---:|---|"]
    lines += [
        f"| {one.goal.figure} | {one.versus} | {_value(one)} | {one.goal.wanted} | {one.words} |"
        for one in _verdicts(results)
    ]
    return "\n".join(lines) + "\n"


def _row(row: Row, result: RowResult) -> list[str]:
    around = result.surroundings
    parts = [
        f"## {row.title}\n",
        row.conditions + "\n",
        f"Measured {around.date}, {around.mode} mode; load before it {around.load:.2f} per core.\n",
    ]
    for table in row.tables:
        lines = list(_lines(table, result))
        if lines:
            parts.append(f"**{table.title}**\n")
            parts.append("| | " + " | ".join(column.title for column in table.columns) + " |")
            parts.append("|---|" + "---:|" * len(table.columns))
            parts += ["| " + " | ".join(line) + " |" for line in lines]
            parts.append("")
    parts += [f"- failed: {one.contender}, {one.case}: {one.failure}" for one in result.failures()]
    parts.append(f"![{row.title}]({FOLDER}/{row.name}.png)\n")
    return parts


def _lines(table: Table, result: RowResult) -> Iterator[list[str]]:
    """Yield the lines that have at least one figure."""
    for contender in dict.fromkeys(one.contender for one in result.measurements):
        values = [result.median(contender, column.case, column.metric) for column in table.columns]
        if any(value is not None for value in values):
            cells = [_figure(value, column) for value, column in zip(values, table.columns, strict=True)]
            yield [contender, *cells]


def _figure(value: float | None, column: Column) -> str:
    return "-" if value is None else f"{value:,.{column.digits}f}"


def _surroundings(results: dict[str, RowResult]) -> Iterator[str]:
    newest = max(results.values(), key=lambda result: result.surroundings.date, default=None)
    if newest is None:
        return
    versions = {
        name: text for result in results.values() for name, text in sorted(result.surroundings.versions.items())
    }
    for entries in (newest.surroundings.machine, newest.surroundings.servers, versions):
        for name, text in entries.items():
            yield f"- {name}: {text}"
    yield ""
