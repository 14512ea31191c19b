"""A RabbitMQ server of the tests' own, to alarm, stop and reconfigure; reached by TCP or by TLS.

How it works: Debian's start script takes all its places from the environment, so everything lies in one folder,
with a port mapper (epmd) of its own. `rabbitmqctl` takes 2 s per command on a small machine, so the server is
told what to do by `rabbitmqctl eval` as seldom as possible, and asked through AMQP where that can answer.

What belongs here: starting, commanding and stopping it.
"""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = Path("/usr/lib/rabbitmq/bin")
PASSWORD = "for tests only"
FRAME_MAX = 8192
MAX_MESSAGE_BYTES = 1 << 20


class RabbitServer:
    """A server on free ports of loopback; its user is `test`, its virtual host `/`."""

    def __init__(self, folder: Path, certificate: Path | None = None, key: Path | None = None) -> None:
        """Prepare it; without a certificate it knows no TLS."""
        self.port, self.tls_port = _free_port(), _free_port()
        self.certificate = certificate
        self._folder = folder
        self._log = folder / "out"
        self._processes: list[subprocess.Popen[bytes]] = []
        epmd_port = str(_free_port())
        (folder / "plugins").write_text("[].")
        lines = [
            "default_user = test",
            f"default_pass = {PASSWORD}",
            # Smaller than the client's own limits, so that they are met.
            f"frame_max = {FRAME_MAX}",
            f"max_message_size = {MAX_MESSAGE_BYTES}",
        ]
        if certificate is not None:
            lines += [
                f"listeners.ssl.default = 127.0.0.1:{self.tls_port}",
                f"ssl_options.cacertfile = {certificate}",
                f"ssl_options.certfile = {certificate}",
                f"ssl_options.keyfile = {key}",
            ]
        (folder / "rabbitmq.conf").write_text("".join(f"{line}\n" for line in lines))
        self._epmd = ["epmd", "-address", "127.0.0.1", "-port", epmd_port]
        self._env = {
            **os.environ,
            "HOME": str(folder),  # holds the Erlang cookie
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the server, and is stopped by signals
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(_free_port()),
            "ERL_EPMD_PORT": epmd_port,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_BASE": str(folder),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_MNESIA_DIR": str(folder / "mnesia" / "test"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_CONFIG_FILES": str(folder / "none"),  # these do not exist: nothing is read from /etc
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.env"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false "
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def url(self, port: int | None = None, *, password: str = PASSWORD, virtual_host: str = "") -> str:
        host = f"127.0.0.1:{port or self.port}"
        return f"amqp://test:{password.replace(' ', '%20')}@{host}/{virtual_host}"

    def start(self) -> None:
        """Start it, again after `kill`, and wait until it answers: 5 to 20 s."""
        commands = [[str(PROGRAMS / "rabbitmq-server")]]
        if not self._processes:
            commands.insert(0, self._epmd)
        with self._log.open("ab") as log:
            self._processes += [
                subprocess.Popen(command, env=self._env, stdout=log, stderr=log) for command in commands
            ]
        deadline = time.monotonic() + 60
        while not self._listens():
            assert self._processes[1].poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut does; what is on disk stays."""
        server = self._processes.pop()
        server.kill()
        server.wait()

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl`; return what it says."""
        command = [str(PROGRAMS / "rabbitmqctl"), "--quiet", *arguments]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=60)
        assert not done.returncode, done.stdout + done.stderr
        return done.stdout

    def hang(self) -> None:
        """Let it answer nobody any more, until `go_on`."""
        self._processes[1].send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._processes[1].send_signal(signal.SIGCONT)

    def close(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def _listens(self) -> bool:
        # It answers a wrong greeting only once it is ready to serve.
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
                sock.sendall(b"hello!!!")
                return sock.recv(4) == b"AMQP"
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
