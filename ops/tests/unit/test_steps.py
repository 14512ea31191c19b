"""How a step of `./stack test` counts: nothing that went wrong may count as nothing."""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from stack.testing import plan
from stack.testing.steps import AGAIN, Outcome, Step, run


def step(
    folder: Path, code: str, *, junit: str | None = None, is_pytest: bool = True, longest: float = 60
) -> Outcome:
    report = folder / "report.xml"
    if junit is not None:
        code = f"open({str(report)!r}, 'w').write({junit!r}); {code}"
    return run(
        Step(
            name="s",
            command=[sys.executable, "-c", code],
            folder=folder,
            environ=dict(os.environ),
            log=folder / "log",
            report=report if is_pytest else None,
            longest=longest,
        )
    )


CASES = (
    '<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure/></testcase>'
    '<testcase name="c"><error/></testcase><testcase name="d"><skipped/></testcase></testsuite></testsuites>'
)
ONE = '<testsuites><testsuite><testcase name="a"/></testsuite></testsuites>'


def suite(folder: Path, tests: str, *, again: bool = True) -> Outcome:
    """A run of pytest itself over a file of tests."""
    (folder / "test_it.py").write_text(tests)
    report = folder / "report.xml"
    return run(
        Step(
            name="s",
            command=[sys.executable, "-m", "pytest", "--rootdir", str(folder), f"--junitxml={report}"],
            folder=folder,
            environ=dict(os.environ),
            log=folder / "log",
            report=report,
            again=("--last-failed",) if again else (),
        )
    )


STEADY = "def test_steady(): open('runs', 'a').write('s')\n"
UNSTEADY = """
def test_unsteady():
    import pathlib
    runs = pathlib.Path("runs")
    count = runs.read_text().count("u") if runs.exists() else 0
    open("runs", "a").write("u")
    assert count, "the first run"
"""
BROKEN = "def test_broken_{0}(): open('runs', 'a').write('b'); assert not 'broken'\n"


def test_a_test_that_passes_when_run_again_is_passed_and_named(tmp_path: Path) -> None:
    outcome = suite(tmp_path, STEADY + UNSTEADY)
    assert (outcome.passed, outcome.failed, list(outcome.unsteady)) == (2, 0, ["test_it::test_unsteady"])
    assert outcome.note == "passed only when run again: test_it::test_unsteady"
    assert (tmp_path / "runs").read_text() == "suu"  # the steady one was not run again
    said = (tmp_path / "log").read_text()
    assert ("the first run" in said, "1 passed" in said) == (True, True)


def test_a_test_that_fails_again_is_failed(tmp_path: Path) -> None:
    outcome = suite(tmp_path, STEADY + UNSTEADY + BROKEN.format(1))
    assert (outcome.passed, outcome.failed, list(outcome.unsteady)) == (2, 1, ["test_it::test_unsteady"])
    assert (tmp_path / "runs").read_text().count("b") == 2


def test_many_failed_tests_are_no_accident_and_are_not_run_again(tmp_path: Path) -> None:
    outcome = suite(tmp_path, UNSTEADY + "".join(map(BROKEN.format, range(AGAIN))))
    assert (outcome.passed, outcome.failed, list(outcome.unsteady)) == (0, AGAIN + 1, [])
    assert (tmp_path / "runs").read_text() == "u" + "b" * AGAIN


def test_without_leave_nothing_is_run_again(tmp_path: Path) -> None:
    outcome = suite(tmp_path, UNSTEADY, again=False)
    assert (outcome.passed, outcome.failed) == (0, 1)


def test_a_run_that_breaks_off_is_not_run_again(tmp_path: Path) -> None:
    outcome = suite(tmp_path, UNSTEADY + "\n\ndef test_end():\n    import os; os._exit(1)\n")
    assert (outcome.passed, outcome.failed, outcome.note) == (0, 1, "ran no test")


@pytest.mark.parametrize(("code", "counts"), [(0, (1, 0)), (1, (0, 1)), (2, (0, 1))])
def test_a_check_is_one_test(tmp_path: Path, code: int, counts: tuple[int, int]) -> None:
    outcome = step(tmp_path, f"import sys; sys.exit({code})", is_pytest=False)
    assert (outcome.passed, outcome.failed) == counts


def test_pytests_own_tests_are_counted(tmp_path: Path) -> None:
    outcome = step(tmp_path, "import sys; sys.exit(1)", junit=CASES)
    assert (outcome.passed, outcome.failed, outcome.skipped) == (1, 2, 1)


def test_a_run_without_a_test_is_a_failure(tmp_path: Path) -> None:
    outcome = step(tmp_path, "import sys; sys.exit(5)", junit="<testsuites><testsuite/></testsuites>")
    assert (outcome.passed, outcome.failed, outcome.note) == (0, 1, "ran no test")


def test_a_run_that_died_before_its_report_is_a_failure(tmp_path: Path) -> None:
    outcome = step(tmp_path, "import os; os.abort()")
    assert (outcome.passed, outcome.failed) == (0, 1)


def test_a_bad_end_without_a_failed_test_is_a_failure(tmp_path: Path) -> None:
    outcome = step(tmp_path, "import sys; sys.exit(3)", junit=ONE)
    assert (outcome.passed, outcome.failed, outcome.note) == (1, 1, "exit code 3")


def test_a_step_that_hangs_is_ended_and_is_a_failure(tmp_path: Path) -> None:
    outcome = step(tmp_path, "import time; time.sleep(60)", is_pytest=False, longest=0.2)
    assert (outcome.passed, outcome.failed > 0, outcome.note) == (0, True, "ended after 0.2 s")
    assert outcome.seconds < 30


def test_a_step_that_is_stopped_cleans_up(tmp_path: Path) -> None:
    stop, marks = threading.Event(), (tmp_path / "begun", tmp_path / "cleaned")
    code = f"import time\ntry:\n    open({str(marks[0])!r}, 'w')\n    time.sleep(60)\n"
    code += f"except KeyboardInterrupt:\n    open({str(marks[1])!r}, 'w')"
    stopped = Step(
        name="s",
        command=[sys.executable, "-c", code],
        folder=tmp_path,
        environ=dict(os.environ),
        log=tmp_path / "log",
    )
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run, stopped, stop)
        end = time.monotonic() + 20
        while not marks[0].exists() and time.monotonic() < end:
            time.sleep(0.05)
        stop.set()
        assert running.result(timeout=40).seconds < 55
    assert marks[1].exists()


def test_a_folder_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    assert step(tmp_path / "none", "pass").failed == 1


def test_output_is_kept_and_what_a_step_leaves_behind_is_ended(tmp_path: Path) -> None:
    code = "import subprocess; print('said'); print(subprocess.Popen(['sleep', '600']).pid)"
    step(tmp_path, code, is_pytest=False)
    said, pid = (tmp_path / "log").read_text().split()
    assert said == "said"
    with suppress(psutil.NoSuchProcess):  # gone already
        psutil.wait_procs([psutil.Process(int(pid))], timeout=5)
    assert not psutil.pid_exists(int(pid))


def test_the_plan_names_folders_of_this_repository_and_picks_by_name() -> None:
    root = Path(__file__).parents[3]
    assert [s.name for s in plan.SUITES if not (root / s.folder / "pyproject.toml").is_file()] == []
    assert [s.name for s in plan.SUITES if not (root / s.folder / s.source).is_dir()] == []
    checks, suites = plan.chosen(["ops", "types"])
    assert (checks, [suite.name for suite in suites]) == (["types"], ["ops"])
    checks, suites = plan.chosen([])
    assert (tuple(checks), tuple(suites)) == (plan.CHECKS, plan.SUITES)
