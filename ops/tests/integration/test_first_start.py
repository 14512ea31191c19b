"""First starts that go wrong half-way, and data that is not as it should be."""

import os
import signal

import pytest
from conftest import Stack

MOMENTS = (
    "project-worker   installing",  # while uv fills an environment
    "postgres         starting",  # while initdb makes the data folder
    "postgres         ready",  # while RabbitMQ starts for the first time
    "rabbitmq         ready",  # while its data is not yet known to be good
)
"""Beginnings of lines of `up`. Each is seen only if `up` got over what the one before it left."""


def interrupt(stack: Stack, moment: str, number: signal.Signals) -> str:
    """Start everything, and send a signal to all of the command when a line begins with `moment`."""
    with stack.begin("up") as up:
        assert up.stdout is not None
        said = []
        for line in up.stdout:
            said.append(line)
            if line.startswith(moment):
                break
        os.killpg(up.pid, number)
        said.append(up.communicate(timeout=60)[0])
    text = "".join(said)
    assert moment in text, text
    assert "Traceback" not in text
    assert up.returncode == (130 if number == signal.SIGINT else -number), text
    return text


@pytest.mark.parametrize(
    ("number", "moments"),
    [(signal.SIGINT, MOMENTS[:-1]), (signal.SIGKILL, MOMENTS)],  # Ctrl-C stops what runs, RabbitMQ in 8 s
    ids=["SIGINT", "SIGKILL"],
)
def test_interrupted_at_any_moment_then_up_again(
    new_stack: Stack, number: signal.Signals, moments: tuple[str, ...]
) -> None:
    new_stack.environ |= {"STACK_RELOAD": "0", "STACK_PROFILES": "core"}
    for moment in moments:
        said = interrupt(new_stack, moment, number)
        if number == signal.SIGINT:
            assert "Interrupted" in said
            assert "rabbitmq         ready" not in said  # it did not go on for the seconds that this takes
            assert new_stack.processes() == []
        assert "problem " not in new_stack.run("doctor")
    assert "6 x 7 through API, RabbitMQ, worker and Redis = 42" in new_stack.run("up")


def test_a_server_that_cannot_start_is_named_with_its_last_lines(new_stack: Stack) -> None:
    new_stack.run("up", "redis")
    new_stack.run("down")
    (new_stack.state / "data/redis/appendonlydir/appendonly.aof.manifest").write_text("nonsense\n")
    said = new_stack.run("up", "redis", code=1)
    assert "redis ends again and again" in said
    assert "AOF" in said  # Redis' own words
    assert "./stack logs redis" in said


def test_lost_settings_are_said(new_stack: Stack) -> None:
    new_stack.run("up", "redis")
    new_stack.run("down")
    (new_stack.state / "env").unlink()
    assert "./stack down --volumes" in new_stack.run("up", "redis", code=3)
