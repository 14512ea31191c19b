"""How long a test session is: what the options of `./stack test` tell the tests."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stack import cli
from stack.errors import StackError
from stack.testing import plan, session
from stack.testing.steps import Outcome


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ([], session.SHORT),
        (["--all"], session.FULL),
        (["--soak"], session.SOAK),
        (["--all", "--soak"], session.SOAK),
    ],
)
def test_options_choose_the_length(
    monkeypatch: pytest.MonkeyPatch, options: list[str], length: session.Length
) -> None:
    seen: list[session.Length] = []

    def run_all(*_: Any, length: session.Length, **__: Any) -> bool:
        seen.append(length)
        return True

    monkeypatch.setattr(session, "run_all", run_all)
    monkeypatch.setattr(cli, "_instance", lambda: None)
    result = CliRunner().invoke(cli.app, ["test", *options], obj=[])
    assert result.exit_code == 0, result.output
    assert seen == [length]


def test_a_longer_session_tells_the_tests_and_waits_for_them() -> None:
    assert dict(session.SHORT.variables) == {}
    assert dict(session.FULL.variables) == {"FAULT_SCALE": "1"}
    assert dict(session.SOAK.variables) == {"FAULT_SCALE": "1", "SOAK": "1"}
    assert session.SHORT.longest < session.FULL.longest < session.SOAK.longest


def test_only_a_longer_session_draws_other_examples_each_time(tmp_path: Path) -> None:
    def drawn(length: session.Length) -> set[str]:
        """Return what Hypothesis has drawn in two sessions of this length."""
        test = tmp_path / "test_drawn.py"
        test.write_text(
            "from hypothesis import given, strategies as st\n"
            "@given(st.binary(min_size=8))\n"
            "def test_drawn(some: bytes) -> None:\n"
            "    open('drawn', 'a').write(some.hex() + ' ')\n"
        )
        outputs = set()
        for _ in range(2):
            profile = f"--hypothesis-profile={length.examples}"
            command = [sys.executable, "-m", "pytest", "-q", profile, test.name]
            subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
            outputs.add((tmp_path / "drawn").read_text())
            (tmp_path / "drawn").unlink()
        return outputs

    assert len(drawn(session.SHORT)) == 1
    assert len(drawn(session.FULL)) == 2
    assert len(drawn(session.SOAK)) == 2


def test_tests_have_a_uv_and_no_settings_of_ours(tmp_path: Path) -> None:
    uv = tmp_path / "bootstrap" / "uv"
    uv.parent.mkdir()
    uv.touch(mode=0o755)
    there = session.environment_of_tests(
        {"PATH": str(uv.parent), "STACK_UV": "uv", "API_PORT": "1", "HOME": "/h"}
    )
    assert there == {"PATH": str(uv.parent), "HOME": "/h"}
    installed = session.environment_of_tests({"PATH": "/nowhere", "STACK_UV": str(uv)})
    assert installed == {"PATH": f"/nowhere:{uv.parent}"}


def suites(*lanes: int) -> list[list[plan.Suite]]:
    """Return so many suites for each lane."""
    every = iter(plan.SUITES)
    return [[next(every) for _ in range(count)] for count in lanes]


def outcome(suite: plan.Suite) -> Outcome:
    return Outcome(name=suite.name, passed=1, failed=0, skipped=0, seconds=0)


def test_every_suite_is_in_one_lane() -> None:
    servers, stacks = session.lanes(plan.SUITES)
    assert sorted(suite.name for suite in servers + stacks) == sorted(suite.name for suite in plan.SUITES)
    assert {suite.name for suite in stacks} == {"contracts", "ops", "e2e"}


def test_lanes_run_at_once_and_each_in_its_order() -> None:
    lanes = suites(2, 1)
    met, ran = threading.Barrier(2), []

    def run_suite(suite: plan.Suite, _: threading.Event) -> Outcome:
        ran.append(suite.name)
        if suite in (lanes[0][0], lanes[1][0]):
            met.wait(timeout=20)  # breaks when one waits for the other's end
        return outcome(suite)

    outcomes = session.side_by_side(lanes, run_suite)
    assert [o.name for o in outcomes] == [suite.name for lane in lanes for suite in lane]
    assert ran.index(lanes[0][0].name) < ran.index(lanes[0][1].name)


def test_what_ends_a_lane_ends_the_other() -> None:
    lanes = suites(2, 1)
    ran = []

    def run_suite(suite: plan.Suite, stop: threading.Event) -> Outcome:
        ran.append(suite)
        if suite is lanes[1][0]:
            raise StackError("no servers", hint="")
        assert stop.wait(20)
        return outcome(suite)

    with pytest.raises(StackError, match="no servers"):
        session.side_by_side(lanes, run_suite)
    assert lanes[0][1] not in ran
