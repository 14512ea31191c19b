"""How long a test session is: what the options of `./stack test` tell the tests."""

from typing import Any

import pytest
from typer.testing import CliRunner

from stack import cli
from stack.testing import session


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
