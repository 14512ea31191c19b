"""Servers that are up: private, on loopback, idempotent, brought back when killed."""

import random
import re
import signal
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import SERVERS, Stack, wait_until

from stack import health, ports, services, settings
from stack.errors import StackError
from stack.health import UnhealthyError
from stack.services import by_name
from stack.supervision import Supervisor


def is_healthy(stack: Stack, name: str) -> bool:
    with suppress(UnhealthyError):
        by_name([name])[0].health(stack.instance)
        return True
    return False


def free_offset() -> int:
    """An offset at which every default port is free."""
    offsets = random.sample(range(100, 7000), 200)
    return next(o for o in offsets if not any(ports.is_busy(port.default + o) for port in services.PORTS))


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
    expected = {int(live.ports[port.variable]) for service in by_name(SERVERS) for port in service.ports}
    assert {address.port for address in listening if address} == expected


@pytest.mark.parametrize("name", SERVERS)
def test_health_finds_another_servers_password_wrong(live: Stack, name: str) -> None:
    good = live.instance
    wrong = {variable: "wrong" for variable in good.values if variable.endswith("_PASSWORD")}
    stranger = type(good)(repository=good.repository, state=good.state, values={**good.values, **wrong})
    by_name([name])[0].health(good)
    with pytest.raises(UnhealthyError):
        by_name([name])[0].health(stranger)


def test_the_workers_health_is_that_its_queues_are_consumed(live: Stack) -> None:
    worker = by_name(["project-worker"])[0]
    queues = ("project-worker", "project-worker-pickle", "dead-letters.inbox")
    with health._amqp(live.instance) as connection:
        channel = connection.channel()
        for queue in queues:
            with pytest.raises(UnhealthyError, match=f"no queue {queue} yet"):
                worker.health(live.instance)
            channel.queue_declare(queue, durable=False, auto_delete=False)
            with pytest.raises(UnhealthyError, match=f"nobody consumes the queue {queue}"):
                worker.health(live.instance)
            channel.basic_consume(queue, no_ack=True)
        worker.health(live.instance)
    with health._amqp(live.instance) as connection:
        for queue in queues:
            connection.channel().queue_delete(queue)


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


def test_up_completes_a_service_of_which_only_a_part_runs(live: Stack) -> None:
    supervisor = Supervisor(live.instance)
    supervisor.stop("rabbitmq")
    supervisor.wait_ended("rabbitmq", 40)
    assert supervisor.state("epmd").is_running
    live.run("up", "rabbitmq")
    assert is_healthy(live, "rabbitmq")


def test_a_program_newer_than_the_running_stack(live: Stack) -> None:
    supervisor = Supervisor(live.instance)
    assert supervisor.state("newer").was_stopped
    assert supervisor.states()["newer"].has_ended
    with pytest.raises(StackError, match="before its code was updated"):
        supervisor.start("newer")


def test_doctor_finds_a_live_stack_well(live: Stack) -> None:
    said = live.run("doctor")
    assert not re.findall(r"^problem.*", said, re.MULTILINE)
    for name, user in (("postgres", "project"), ("redis", "the default user"), ("rabbitmq", "project")):
        assert re.search(rf"^ok +{name} login +logged in as {user}$", said, re.MULTILINE), said
    used = {port.variable for service in by_name(SERVERS) for port in service.ports}
    for variable, number in live.ports.items():
        state = ", in use by this stack" if variable in used else "(is free|, not needed: .* is not installed)"
        assert re.search(rf"^ok +{variable} +{number} ?{state}$", said, re.MULTILINE), said
    assert not [secret for secret in live.secrets() if secret in said]


def test_doctor_finds_credentials_that_servers_refuse_and_those_that_are_gone(live: Stack) -> None:
    env = live.state / "env"
    good = env.read_text()
    try:
        settings.write(env, {**settings.read(env), "REDIS_PASSWORD": "wrong", "POSTGRES_PASSWORD": "wrong"})
        said = live.run("doctor", code=1)
        assert re.search(r"^problem +redis login .*WRONGPASS", said, re.MULTILINE), said
        assert re.search(r"^problem +postgres login .*password authentication failed", said, re.MULTILINE), said
        assert re.search(r"^ok +rabbitmq login", said, re.MULTILINE), said
        env.unlink()
        said = live.run("doctor", code=3)
        assert re.search(r"^problem +settings .*credentials are gone", said, re.MULTILINE), said
    finally:
        env.write_text(good)


def test_doctor_names_the_stranger_on_our_port(live: Stack, new_stack: Stack) -> None:
    new_stack.environ["REDIS_PORT"] = live.ports["REDIS_PORT"]
    pid = live.process("redis-server").pid
    said = new_stack.run("doctor", code=3)
    assert re.search(rf"^problem +REDIS_PORT .* taken by redis-server \(pid {pid}\)$", said, re.MULTILINE), said
    assert not new_stack.state.exists()


def test_restart_gives_new_processes_to_the_named_and_leaves_the_others(live: Stack) -> None:
    redis, postgres = live.process("redis-server").pid, live.process("postgres").pid
    said = live.run("restart", "redis")
    assert re.search(r"^redis +stopped .*\n(.*\n)*redis +ready", said, re.MULTILINE), said
    assert "postgres" not in said
    assert live.process("redis-server").pid != redis
    assert live.process("postgres").pid == postgres
    assert is_healthy(live, "redis")


def test_two_stacks_side_by_side(live: Stack, new_stack: Stack) -> None:
    for variable in new_stack.ports:
        del new_stack.environ[variable]
    new_stack.environ["STACK_PORT_OFFSET"] = str(free_offset())
    new_stack.run("up", *SERVERS)
    del new_stack.environ["STACK_PORT_OFFSET"]  # it is remembered
    assert all(is_healthy(stack, name) for stack in (live, new_stack) for name in SERVERS)
    assert new_stack.instance.port("REDIS_PORT") == 6379 + int(new_stack.instance["STACK_PORT_OFFSET"])
    live.run("stop", "redis")
    assert is_healthy(new_stack, "redis")
    live.run("start", "redis")
    new_stack.run("down")
    assert new_stack.processes() == []
    assert all(is_healthy(live, name) for name in SERVERS)


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
    said = live.run("doctor")
    assert re.search(r"^warning +supervisor +the stack is down; a killed", said, re.MULTILINE), said
    assert re.search(r"^ok +redis login +not tried: the stack is down$", said, re.MULTILINE), said
    live.run("up", "postgres", "redis")  # without RabbitMQ's 8 s: e2e brings up everything again


def test_restart_of_all_leaves_what_is_stopped(live: Stack) -> None:
    live.run("stop", "redis")
    before = live.process("postgres").pid
    said = live.run("restart")  # RabbitMQ has not been started since the supervisor was killed
    assert live.process("postgres").pid != before
    assert "rabbitmq" not in said
    assert re.search(r"redis +stopped", live.run("status"))
    live.run("start", "redis")


def test_down_leaves_no_process_and_keeps_the_data(live: Stack) -> None:
    live.run("down")
    assert live.processes() == []
    assert (live.state / "data/postgres/cluster/PG_VERSION").exists()
    assert "was down already" in live.run("down")


def test_a_program_stopped_as_soon_as_it_is_started_does_not_miss_the_signal(live: Stack) -> None:
    supervisor = Supervisor(live.instance)
    live.run("up", "redis")
    live.run("stop", "redis")
    for _ in range(3):
        supervisor.start("redis")
        supervisor.stop("redis")
        supervisor.wait_ended("redis", 5)  # a signal that was lost is followed by a kill after 12 s
    live.run("start", "redis")


def test_what_starts_in_the_background_is_told_when_it_starts_and_not_again(
    new_stack: Stack, tmp_path: Path
) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\nexec sleep 300\n")  # an installation that takes its time
    uv.chmod(0o755)
    new_stack.environ["STACK_UV"] = str(uv)
    told = "pgadmin is being installed (once) and started in the background"
    assert told in new_stack.run("up", "pgadmin")

    def is_installing() -> bool:
        # Until then it is starting, of which `status` says by its exit code that it is not well.
        with new_stack.begin("status") as process:
            said, _ = process.communicate(timeout=100)
        return re.search(r"^pgadmin +installing", said, re.MULTILINE) is not None

    wait_until(is_installing, 30, "it runs")
    said = new_stack.run("up", "pgadmin")
    assert "Up already; checked" in said
    assert "in the background" not in said
