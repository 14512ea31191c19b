"""Log lines: level, format, destination."""

import logging
from collections.abc import Iterator

import pytest
from celery import signals

from worker.config import Settings
from worker.logging import install_logging


@pytest.fixture(autouse=True)
def logging_is_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("setting", "asked", "shown"),
    [("INFO", "WARNING", "INFO"), ("ERROR", "DEBUG", "DEBUG"), ("INFO", "INFO", "INFO")],
)
def test_the_more_talkative_of_setting_and_option_wins(
    settings: Settings, capsys: pytest.CaptureFixture[str], setting: str, asked: str, shown: str
) -> None:
    install_logging(settings.model_copy(update={"log_level": setting}))
    signals.setup_logging.send(sender=None, loglevel=logging.getLevelNamesMapping()[asked], logfile=None)
    assert logging.getLogger().level == logging.getLevelNamesMapping()[shown]

    line = capsys.readouterr().out
    assert line.count("\n") == 1  # installed once, however many apps the process has made
    assert "INFO    MainProcess worker [-] project-worker 0.1.0 (production): Works the tasks" in line


def test_lines_go_to_stdout_one_per_event(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    install_logging(settings)
    signals.setup_logging.send(sender=None, loglevel=logging.INFO, logfile=None)
    logging.getLogger("celery.worker").warning("something happened to %s", "a task")
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("WARNING MainProcess celery.worker [-] something happened to a task")
    )
