"""One step of a test session: a program, its output, and how many tests it counts as.

How it works: a check counts as one test, passed when its program ends with 0. A pytest run counts as its own
tests, read from its JUnit file; a run that ends badly without a failed test, or that runs no test, is one
failure.

What belongs here: running and counting, nothing about particular suites.
"""

import os
import signal
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step came to; `seconds` is how long it took, `note` says what the counts do not.

    `unsteady` names the tests that failed and passed when they were run again; they are among the passed.
    """

    name: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    note: str = ""
    unsteady: Sequence[str] = ()


_POLL = 0.2  # s between two looks at whether to stop

AGAIN = 3
"""How many failed tests of a step are run again, at most: more of them are no accident."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A program to run: from which folder, in which environment variables, with its output to which file.

    `report` is the JUnit file that pytest is asked to write; None for a check. With `is_live`, the output goes to
    the terminal instead of the file. It is ended after `longest` seconds. `again` are the words that have the
    command run only what failed; empty: nothing is run again.
    """

    name: str
    command: Sequence[str]
    folder: Path
    environ: Mapping[str, str]
    log: Path
    report: Path | None = None
    is_live: bool = False
    longest: float = 1200  # s
    again: Sequence[str] = ()


def run(step: Step, stop: threading.Event | None = None) -> Outcome:
    """Run a step to its end, or until `stop` is set."""
    begin = time.monotonic()
    if not step.folder.is_dir():
        return Outcome(name=step.name, passed=0, failed=1, skipped=0, seconds=0, note=f"no folder {step.folder}")
    stop = stop or threading.Event()
    code = _execute(step, stop)
    cases = _cases(step.report) if step.report is not None else {step.name: "passed" if code == 0 else "failed"}
    unsteady = []
    first = [name for name, result in cases.items() if result == "failed"]
    if step.report is not None and step.again and code == _TESTS_FAILED and len(first) <= AGAIN:
        second = _once_more(step, step.report.with_suffix(".again.xml"), stop)
        unsteady = [name for name in first if second.get(name) == "passed"]
        cases |= dict.fromkeys(unsteady, "passed")
        code = _TESTS_FAILED if len(unsteady) < len(first) else 0
    results = list(cases.values())
    passed, failed = results.count("passed"), results.count("failed")
    note = ""
    if code is None:
        note = f"ended after {step.longest:g} s"
    elif not passed + failed:
        note = "ran no test"
    elif code and not failed:
        note = f"exit code {code}"
    if note:
        failed += 1
    elif unsteady:
        note = f"passed only when run again: {', '.join(unsteady)}"
    return Outcome(
        name=step.name,
        passed=passed,
        failed=failed,
        skipped=results.count("skipped"),
        seconds=time.monotonic() - begin,
        note=note,
        unsteady=unsteady,
    )


_TESTS_FAILED = 1
"""Pytest's exit code when all tests were run and some failed; other codes are of runs that broke off."""


def _once_more(step: Step, report: Path, stop: threading.Event) -> Mapping[str, str]:
    """Run what failed again, with its output after the first run's; return what each test came to."""
    report.unlink(missing_ok=True)
    _execute(replace(step, command=[*step.command, *step.again, f"--junitxml={report}"]), stop, mode="ab")
    return _cases(report)


def _execute(step: Step, stop: threading.Event, mode: Literal["wb", "ab"] = "wb") -> int | None:
    """Return the exit code; None when the step took too long."""
    end = time.monotonic() + step.longest
    with step.log.open(mode) as log:
        process = subprocess.Popen(
            step.command,
            cwd=step.folder,
            env=step.environ,
            stdin=subprocess.DEVNULL,
            stdout=None if step.is_live else log,
            stderr=None if step.is_live else subprocess.STDOUT,
            start_new_session=True,  # so that whatever it leaves behind can be ended with it
        )
        try:
            while time.monotonic() < end and not stop.is_set():
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(_POLL)
            return _interrupt(process) if stop.is_set() else None
        except KeyboardInterrupt:
            _interrupt(process)
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _interrupt(process: subprocess.Popen[bytes]) -> int | None:
    process.send_signal(signal.SIGINT)  # pytest runs its clean-up
    with suppress(subprocess.TimeoutExpired):
        return process.wait(30)
    return None


def _cases(report: Path) -> dict[str, str]:
    """Return what each test came to: passed, failed or skipped."""
    if not report.exists():
        return {}
    cases: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 (pytest wrote it just now)
        name = f"{case.get('classname', '')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            cases[name] = "failed"
        else:  # a test that fails and whose clean-up fails too is in the file twice
            cases.setdefault(name, "skipped" if case.find("skipped") is not None else "passed")
    return cases
