"""Being told: a real Alertmanager delivers an alert by every way that the settings know."""

import json
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT, Stack, wait_until

CONFIGURATION = ROOT / "infra" / "alertmanager" / "alertmanager.yml"


class Receivers:
    """A web server and a mail server of the test; `heard` is what came, by path or "mail"."""

    def __init__(self) -> None:
        heard: dict[str, list[str]] = {}
        self.heard = heard

        class Web(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                heard.setdefault(self.path, []).append(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Mail(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._say(b"220 ready")
                for line in self.rfile:
                    if line.upper().startswith(b"DATA"):
                        self._say(b"354 go on")
                        letter = b"".join(iter(self.rfile.readline, b".\r\n")).decode()
                        heard.setdefault("mail", []).append(letter)
                    self._say(b"221 bye" if line.upper().startswith(b"QUIT") else b"250 ok")

            def _say(self, answer: bytes) -> None:
                self.wfile.write(answer + b"\r\n")

        self.servers = [
            ThreadingHTTPServer(("127.0.0.1", 0), Web),
            socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail),
        ]
        self.web, self.mail = (int(server.server_address[1]) for server in self.servers)


@contextmanager
def receivers() -> Iterator[Receivers]:
    """Listen until the block ends."""
    made = Receivers()
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}) for server in made.servers
    ]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        for server, thread in zip(made.servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def amtool(*words: str) -> str:
    program = shutil.which("amtool")
    assert program, "it comes with Debian's package prometheus-alertmanager"
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def told(new_stack: Stack) -> Iterator[Receivers]:
    """Whoever an Alertmanager tells, by every way."""
    with receivers() as made:
        new_stack.environ |= {
            "ALERT_WEBHOOK_URL": f"http://127.0.0.1:{made.web}/webhook",
            "ALERT_SLACK_URL": f"http://127.0.0.1:{made.web}/slack",
            "ALERT_HEARTBEAT_URL": f"http://127.0.0.1:{made.web}/heartbeat",
            "ALERT_EMAIL_TO": "me@example.org",
            "ALERT_SMTP_URL": f"smtp://127.0.0.1:{made.mail}",
        }
        new_stack.run("up", "alertmanager")
        yield made


def test_an_alert_goes_every_way(new_stack: Stack, told: Receivers) -> None:
    address = f"--alertmanager.url=http://127.0.0.1:{new_stack.ports['ALERTMANAGER_PORT']}"
    amtool("check-config", str(new_stack.state / "config" / "alertmanager" / "alertmanager.yml"))
    page = ("RedisDown", "severity=page", "--annotation=summary=no Redis", "--annotation=runbook=docs/x.md")
    amtool("alert", "add", *page, address)
    amtool("alert", "add", "Watchdog", "severity=none", address)
    wait_until(
        lambda: set(told.heard) == {"/webhook", "/slack", "/heartbeat", "mail"},
        60,
        f"all are told; heard: {told.heard}",
    )
    (alert,) = json.loads(told.heard["/webhook"][0])["alerts"]
    assert alert["labels"]["alertname"] == "RedisDown"
    assert "no Redis\\n\\ndocs/x.md" in told.heard["/slack"][0]
    assert "To: me@example.org" in told.heard["mail"][0]
    assert json.loads(told.heard["/heartbeat"][0])["alerts"][0]["labels"]["alertname"] == "Watchdog"
    assert not any(
        "Watchdog" in text for path, texts in told.heard.items() if path != "/heartbeat" for text in texts
    )


def test_the_configuration_as_it_comes_is_valid_and_sends_the_heartbeat_elsewhere(new_stack: Stack) -> None:
    new_stack.run("up", "alertmanager")  # which installs amtool
    assert "2 receivers" in amtool("check-config", str(CONFIGURATION))
    file = f"--config.file={CONFIGURATION}"
    assert amtool("config", "routes", "test", file, "alertname=Watchdog").strip() == "heartbeat"
    for severity in ("page", "ticket"):
        assert (
            amtool("config", "routes", "test", file, "alertname=X", f"severity={severity}").strip() == "default"
        )


def test_a_wrong_setting_is_told_with_its_name(new_stack: Stack) -> None:
    new_stack.environ["ALERT_WEBHOOK_URL"] = "example.org"
    said = new_stack.run("up", "alertmanager", code=2)
    assert "ALERT_WEBHOOK_URL is no address: example.org" in said
