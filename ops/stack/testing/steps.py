"""One step of a test session: a program, its output, and how many tests it counts as.

How it works: a check counts as one test, passed when its program ends with 0. A pytest run counts as its own
tests, read from its JUnit file; a run that ends badly without a failed test, or that runs no test, is one
failure.

What belongs here: running and counting, nothing about particular suites.
"""

import os
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step came to; `seconds` is how long it took, `note` says what the counts do not."""

    name: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A program to run: from which folder, in which environment variables, with its output to which file.

    `report` is the JUnit file that pytest is asked to write; None for a check. With `is_live`, the output goes to
    the terminal instead of the file. It is ended after `longest` seconds.
    """

    name: str
    command: Sequence[str]
    folder: Path
    environ: Mapping[str, str]
    log: Path
    report: Path | None = None
    is_live: bool = False
    longest: float = 1200  # s


def run(step: Step) -> Outcome:
    """Run a step to its end."""
    begin = time.monotonic()
    if not step.folder.is_dir():
        return Outcome(name=step.name, passed=0, failed=1, skipped=0, seconds=0, note=f"no folder {step.folder}")
    code = _execute(step)
    seconds = time.monotonic() - begin
    if step.report is not None:
        passed, failed, skipped = _count(step.report)
    else:
        passed, failed, skipped = int(code == 0), int(code != 0), 0
    note = ""
    if code is None:
        note = f"ended after {step.longest:g} s"
    elif not passed + failed:
        note = "ran no test"
    elif code and not failed:
        note = f"exit code {code}"
    if note:
        failed += 1
    return Outcome(name=step.name, passed=passed, failed=failed, skipped=skipped, seconds=seconds, note=note)


def _execute(step: Step) -> int | None:
    """Return the exit code; None when the step took too long."""
    with step.log.open("wb") as log:
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
            return process.wait(step.longest)
        except subprocess.TimeoutExpired:
            return None
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # pytest runs its clean-up
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _count(report: Path) -> tuple[int, int, int]:
    """Return how many tests passed, failed and were skipped."""
    if not report.exists():
        return 0, 0, 0
    cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 (pytest wrote it just now)
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - failed - skipped, failed, skipped
