"""A webhook that remembers what Alertmanager tells it, and the monitoring's timings, shortened for a test.

What belongs here: standing in for whoever is told about alerts.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Told:
    """One alert of one message: `status` is firing or resolved, `path` is where the message was sent."""

    at: float
    path: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]


class Webhook:
    """What was told, in order."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.heard: list[Told] = []

    def hear(self, path: str, message: dict[str, Any]) -> None:
        """Remember a message of Alertmanager."""
        self.heard += [
            Told(
                at=time.monotonic(),
                path=path,
                status=alert["status"],
                labels=alert["labels"],
                annotations=alert["annotations"],
            )
            for alert in message["alerts"]
        ]

    def find(self, alert: str, status: str, *, since: float, **labels: str) -> Told | None:
        """Return the first telling of an alert with these labels since then."""
        wanted = {"alertname": alert, **labels}
        for told in list(self.heard):
            if told.at >= since and told.status == status and wanted.items() <= told.labels.items():
                return told
        return None


@contextmanager
def listening() -> Iterator[Webhook]:
    """Listen on a free port of this machine, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            webhook.hear(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    webhook = Webhook(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield webhook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def shortened(infra: Path) -> Iterator[None]:
    """Let rules fire after a second and Alertmanager say seconds later what has changed, until the block ends.

    Its first wait stays as it is, longer than the time between two scrapes: what inhibits an alert may be seen by
    the next scrape only.
    """
    changes = {
        "prometheus/rules/services.yml": (r"for: \w+", "for: 1s"),
        "prometheus/rules/tasks.yml": (r"for: \w+", "for: 1s"),
        "prometheus/prometheus.yml": (r"evaluation_interval: \w+", "evaluation_interval: 1s"),
        "alertmanager/alertmanager.yml": (r"group_interval: \w+", "group_interval: 5s"),
    }
    before = {infra / name: (infra / name).read_text() for name in changes}
    for name, (pattern, text) in changes.items():
        changed, count = re.subn(pattern, text, before[infra / name])
        assert count, f"{name} has no {pattern}"
        (infra / name).write_text(changed)
    try:
        yield
    finally:
        for path, text in before.items():
            path.write_text(text)
