"""How a step of `./stack test` counts: nothing that went wrong may count as nothing."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from stack.testing import plan
from stack.testing.steps import Outcome, Step, run


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
