"""A benchmark run: environments, servers, the rows' turns, and what is written.

How it works: everything that takes time shows that it goes on. After each row its file is written, so that an
interrupted run keeps what it has. A full run writes to benchmarks/, which is published; a quick one to the state
folder, where it replaces nothing.

What belongs here: the order of a run.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stack import environments, folders, locks, processes
from stack.bench import report, rows, servers
from stack.bench.broker import Broker
from stack.bench.contenders import Contender, ContenderError, contender_log
from stack.bench.database import Database
from stack.bench.lab import Lab
from stack.bench.results import Measurement, RowResult, Surroundings
from stack.bench.row import Row, Scale
from stack.bench.store import Store
from stack.environments import Environment
from stack.instance import Instance
from stack.progress import Board

_PLOTS = Environment(name="bench-plots", locks=(Path("benchmarks/plots/requirements.lock"),))
_PLOT = Path("benchmarks/plots/plot.py")


def run(home: Instance, names: Sequence[str], *, is_full: bool, console: Console) -> bool:
    """Measure the named rows, all of them when none is named, and write and print the report.

    Args:
        home: The instance in whose state folder environments and logs are kept.
        names: Rows.
        is_full: Whether to measure long enough for figures that are published.
        console: Where progress and results go.

    Returns:
        Whether every contender did its turns; a goal that is missed is a result, not a failure.

    Raises:
        UsageError: A row is unknown.
        StackError: An environment, a server or a plot could not be made.
    """
    chosen, scale = rows.by_name(list(names)), Scale(is_full=is_full)
    folders.make(home)
    output = home.repository / "benchmarks" if is_full else home.state / "bench"
    (output / report.FOLDER).mkdir(parents=True, exist_ok=True)
    _make_environments(home, chosen, console)
    for contender in {one for row in chosen for one in row.contenders}:
        contender_log(contender, home).unlink(missing_ok=True)  # what it holds is of this run
    with servers.started(home, console) as instance, Broker(instance) as broker, Store(instance) as store:
        # Environments and logs are the live instance's, the servers are those just started.
        database = Database(replace(home, values=instance.values))
        lab = Lab(instance=home, broker=broker, store=store, database=database)
        found = _measure(lab, chosen, scale, output / report.FOLDER, console)
    for row, result in zip(chosen, found, strict=True):
        report.show(row, result, console)
    results = report.read(output / report.FOLDER)
    report.show_goals(results, chosen, console)
    (output / report.FILE).write_text(report.markdown(results))
    _plot(home, chosen, found, output / report.FOLDER)
    console.print(f"\nwritten: {output / report.FILE}", highlight=False, soft_wrap=True)
    return not any(result.failures() for result in found)


def _make_environments(home: Instance, chosen: Sequence[Row], console: Console) -> None:
    wanted = {contender.environment.name: contender.environment for row in chosen for contender in row.contenders}
    wanted[_PLOTS.name] = _PLOTS
    missing = [environment for environment in wanted.values() if not environments.is_current(environment, home)]
    with Board((environment.name for environment in missing), console) as board:
        for environment in missing:
            board.report(environment.name, "installing")
            environments.make(environment, home, threading.Event())
            board.report(environment.name, "ready")


def _measure(lab: Lab, chosen: Sequence[Row], scale: Scale, folder: Path, console: Console) -> list[RowResult]:
    results = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=sum(len(row.turns(scale)) for row in chosen))
        for row in chosen:
            begin, surroundings = time.monotonic(), _surroundings(lab, row.contenders, scale)
            measurements: list[Measurement] = []
            progress.update(bar, description=f"{row.name}: starting")
            try:
                with row.standing(lab, scale) as standing:
                    for turn in row.turns(scale):
                        progress.update(bar, description=f"{row.name}: {turn.contender}, {turn.case}")
                        measurements += turn.take(lab, standing)
                        progress.advance(bar)
            except ContenderError as error:  # what was to run during the whole row: the other rows are measured
                measurements.append(
                    Measurement(contender=row.name, case="start", round=0, values={}, failure=str(error))
                )
            result = RowResult(
                row=row.name,
                surroundings=surroundings,
                measurements=measurements,
            )
            result.write(folder)
            results.append(result)
            if not console.is_terminal:
                console.print(f"{row.name:<12} measured in {time.monotonic() - begin:5.1f} s", highlight=False)
    return results


def _surroundings(lab: Lab, contenders: Sequence[Contender], scale: Scale) -> Surroundings:
    return Surroundings(
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        mode="full" if scale.is_full else "quick",
        machine={
            "processor": f"{_processor()}, {os.cpu_count()} cores",
            "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
            "system": f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}",
            "Python": platform.python_version(),
        },
        servers={
            "RabbitMQ": lab.broker.version,
            "Redis": lab.store.version,
            "PostgreSQL": lab.database.version,
        },
        versions={contender.name: _versions(contender, lab.instance) for contender in contenders},
        load=os.getloadavg()[0] / (os.cpu_count() or 1),
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _versions(contender: Contender, instance: Instance) -> str:
    (lock,) = contender.environment.locks
    pins = dict(pin.partition(" ")[0].split("==") for pin in locks.pins((instance.repository / lock).read_text()))
    return ", ".join(f"{name} {pins[name]}" for name in contender.packages)


def _plot(home: Instance, chosen: Sequence[Row], found: Sequence[RowResult], folder: Path) -> None:
    python = environments.python(_PLOTS, home)
    for row, result in zip(chosen, found, strict=True):
        request = json.dumps(
            {"file": str(folder / f"{row.name}.png"), "title": row.title, "plots": _bars(row, result)}
        )
        log = home.log("bench-plots")
        command = [str(python), str(home.repository / _PLOT), request]
        processes.run(command, log=log, cancelled=threading.Event(), what=f"plotting {row.name}")


def _bars(row: Row, result: RowResult) -> list[Mapping[str, object]]:
    contenders = list(dict.fromkeys(one.contender for one in result.measurements))
    plots: list[Mapping[str, object]] = []
    for title, column in row.plots.items():
        values = {name: result.median(name, column.case, column.metric) for name in contenders}
        known = {name: value for name, value in values.items() if value is not None}
        plots.append({"title": title, "unit": column.title, "bars": known})
    return plots
