"""First starts that go wrong half-way, and data that is not as it should be."""

import signal

from conftest import SERVERS, Stack


def interrupt(stack: Stack, moment: str) -> None:
    """Start the servers, and press Ctrl-C when a line begins with `moment`."""
    with stack.begin("up", *SERVERS) as up:
        assert up.stdout is not None
        for line in up.stdout:
            if line.startswith(moment):
                break
        up.send_signal(signal.SIGINT)
        said = up.communicate(timeout=60)[0]
    assert up.returncode == 130, said
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert stack.processes() == []


def test_ctrl_c_at_any_moment_then_up_again(new_stack: Stack) -> None:
    interrupt(new_stack, "postgres         starting")  # while initdb makes the data folder
    interrupt(new_stack, "postgres         ready")  # while RabbitMQ starts for the first time
    new_stack.run("up", *SERVERS)


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
