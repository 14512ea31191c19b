"""Servers that are up: private, on loopback, idempotent, brought back when killed."""

import re
import signal
import socket
import stat
import time
from contextlib import suppress

import psutil
import pytest
from conftest import SERVERS, Stack, wait_until

from stack import health
from stack.health import UnhealthyError
from stack.services import by_name


def is_healthy(stack: Stack, name: str) -> bool:
    with suppress(UnhealthyError):
        by_name([name])[0].health(stack.instance)
        return True
    return False


def test_up_again_says_so_at_once_and_touches_nothing(live: Stack) -> None:
    before = {process.pid for process in live.processes()}
    begin = time.monotonic()
    said = live.run("up", *SERVERS)
    assert time.monotonic() - begin < 10
    assert "Up already" in said
    assert {process.pid for process in live.processes()} == before


def test_what_is_shown_has_every_service_link_and_the_place_of_the_passwords(live: Stack) -> None:
    said = live.run("up", *SERVERS)
    for name in SERVERS:
        assert re.search(rf"^{name} +ready +\d+\.\d s$", said, re.MULTILINE), said
    assert f"http://127.0.0.1:{live.ports['RABBITMQ_MANAGEMENT_PORT']} " in said
    assert str(live.state / "env") in said


def test_status_shows_pid_health_and_ports(live: Stack) -> None:
    said = live.run("status")
    pid = live.process("redis-server").pid
    assert re.search(rf"redis +running +{pid} +\d.* s +ok +{live.ports['REDIS_PORT']}", said), said
    assert re.search(r"project-api +stopped", said), said


def test_the_settings_are_private(live: Stack) -> None:
    assert stat.S_IMODE((live.state / "env").stat().st_mode) == 0o600
    assert stat.S_IMODE((live.state / "run").stat().st_mode) == 0o700
    assert stat.S_IMODE((live.state / "run" / "supervisord.conf").stat().st_mode) == 0o600
    for config in ("redis/redis.conf", "rabbitmq/rabbitmq.conf", "postgres/postgresql.conf"):
        assert stat.S_IMODE((live.state / "config" / config).stat().st_mode) == 0o600


def test_no_secret_is_on_a_command_line_in_a_log_or_in_the_output(live: Stack) -> None:
    texts = [" ".join(process.cmdline()) for process in live.processes()]
    texts += [path.read_text() for path in (live.state / "logs").iterdir()]
    texts += [live.run("up", *SERVERS), live.run("status"), live.run("urls"), live.run("logs", "-n", "200")]
    assert not [secret for secret in live.secrets() for text in texts if secret in text]


def test_every_listener_is_on_loopback(live: Stack) -> None:
    pids = {process.pid for process in live.processes()}
    listening = [
        c.laddr for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in pids
    ]
    assert {address.ip for address in listening if address} <= {"127.0.0.1", "::1"}
    expected = {int(number) for variable, number in live.ports.items() if variable != "API_PORT"}
    assert {address.port for address in listening if address} == expected


@pytest.mark.parametrize("name", SERVERS)
def test_health_finds_another_servers_password_wrong(live: Stack, name: str) -> None:
    good = live.instance
    wrong = {variable: "wrong" for variable in good.values if variable.endswith("_PASSWORD")}
    stranger = type(good)(repository=good.repository, state=good.state, values={**good.values, **wrong})
    by_name([name])[0].health(good)
    with pytest.raises(UnhealthyError):
        by_name([name])[0].health(stranger)


def test_the_workers_health_is_that_its_queue_is_consumed(live: Stack) -> None:
    with pytest.raises(UnhealthyError, match="no queue"):
        by_name(["project-worker"])[0].health(live.instance)
    with health._amqp(live.instance) as connection:
        channel = connection.channel()
        channel.queue_declare("project-worker", durable=False, auto_delete=False)
        with pytest.raises(UnhealthyError, match="nobody consumes"):
            by_name(["project-worker"])[0].health(live.instance)
        tag = channel.basic_consume("project-worker", no_ack=True)
        by_name(["project-worker"])[0].health(live.instance)
        channel.basic_cancel(tag)
        channel.queue_delete("project-worker")


def test_a_stranger_on_our_port_is_named_with_the_variable_that_moves_ours(live: Stack, new_stack: Stack) -> None:
    new_stack.environ["REDIS_PORT"] = live.ports["REDIS_PORT"]
    said = new_stack.run("up", "redis", code=3)
    pid = live.process("redis-server").pid
    assert f"port {live.ports['REDIS_PORT']} (Redis) is taken by redis-server (pid {pid})" in said
    assert "REDIS_PORT=" in said
    assert new_stack.processes() == []


def test_a_running_stack_is_not_moved(live: Stack) -> None:
    live.environ["REDIS_PORT"] = "31999"
    try:
        assert "./stack down, then REDIS_PORT=31999 ./stack up" in live.run("up", "redis", code=3)
    finally:
        live.environ["REDIS_PORT"] = live.ports["REDIS_PORT"]


def test_two_commands_at_once_are_told_apart(live: Stack) -> None:
    redis = live.process("redis-server")
    redis.send_signal(signal.SIGSTOP)  # so that the first command takes its time
    first = live.begin("stop", "redis")
    try:
        wait_until(
            lambda: (live.state / "run/lock").read_text() == f"{first.pid}\n", 10, "the first has the lock"
        )
        assert f"pid {first.pid}" in live.run("stop", "redis", code=1)
    finally:
        redis.send_signal(signal.SIGCONT)
        first.communicate(timeout=30)
    live.run("start", "redis")


def test_a_stopped_service_stays_stopped_and_starts_again(live: Stack) -> None:
    live.run("stop", "redis")
    assert not is_healthy(live, "redis")
    assert re.search(r"redis +stopped", live.run("status"))
    assert is_healthy(live, "postgres")
    live.run("start", "redis")
    assert is_healthy(live, "redis")


@pytest.mark.parametrize(
    ("name", "process"), [("redis", "redis-server"), ("postgres", "postgres"), ("rabbitmq", "beam.smp")]
)
def test_a_killed_server_comes_back(live: Stack, name: str, process: str) -> None:
    killed = live.process(process)
    killed.kill()
    wait_until(lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE, 5, "it is dead")
    wait_until(lambda: is_healthy(live, name), 40, f"{name} is back")
    assert live.process(process).pid != killed.pid


def test_logs_follow_until_ctrl_c(live: Stack) -> None:
    with live.begin("logs", "-f", "redis") as following:
        assert following.stdout is not None
        assert following.stdout.readline().startswith("redis | ")
        with socket.create_connection(("127.0.0.1", int(live.ports["REDIS_PORT"]))) as client:
            client.sendall(b"CLIENT\r\n")
        following.send_signal(signal.SIGINT)
        said = following.communicate(timeout=10)[0]
    assert following.returncode == 130
    assert "Traceback" not in said


def test_a_killed_supervisor_leaves_nothing_and_up_works_again(live: Stack) -> None:
    before = live.processes()
    assert {"redis-server", "postgres", "beam.smp", "epmd"} <= {process.name() for process in before}
    live.process_of_supervisor().kill()
    _, alive = psutil.wait_procs(before, timeout=15)
    assert alive == []
    assert live.processes() == []
    assert "The stack is down" in live.run("status")
    live.run("up", "postgres", "redis")  # without RabbitMQ's 8 s: e2e brings up everything again


def test_down_leaves_no_process_and_keeps_the_data(live: Stack) -> None:
    live.run("down")
    assert live.processes() == []
    assert (live.state / "data/postgres/cluster/PG_VERSION").exists()
    assert "was down already" in live.run("down")
