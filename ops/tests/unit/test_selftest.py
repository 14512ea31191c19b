"""The self-test's second question: does Prometheus reach all that was started?"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stack import selftest, services, settings
from stack.errors import StackError
from stack.instance import Instance


class Targets:
    """What Prometheus says of its targets: port and health."""

    def __init__(self) -> None:
        self.health: dict[int, list[str]] = {}
        """The answers about a port, one after the other; the last one stays."""

    def answer(self) -> bytes:
        targets = []
        for port, said in self.health.items():
            health = said.pop(0) if len(said) > 1 else said[0]
            labels = {"job": f"job-{port}"}
            url = f"http://127.0.0.1:{port}/metrics"
            targets.append({"scrapeUrl": url, "health": health, "labels": labels, "lastError": "refused"})
        return json.dumps({"data": {"activeTargets": targets}}).encode()


@pytest.fixture
def targets() -> Targets:
    return Targets()


@pytest.fixture
def instance(targets: Targets, tmp_path: Path) -> Iterator[Instance]:
    """One whose Prometheus tells `targets`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(targets.answer())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        values = {**settings.defaults(services.PORTS), "PROMETHEUS_PORT": str(server.server_port)}
        yield Instance(repository=tmp_path, state=tmp_path, values=values)
        server.shutdown()


def test_it_waits_for_those_that_were_started_and_for_no_other(instance: Instance, targets: Targets) -> None:
    targets.health = {9121: ["unknown", "down", "up"], 9187: ["down"]}
    count, took = selftest.watch(instance, [services.REDIS_EXPORTER])
    assert count == 1
    assert took > 0


@pytest.mark.parametrize("others", [{9187: ["up"]}, {9187: ["up"], 9121: ["down"]}], ids=["unknown", "down"])
def test_it_names_what_is_not_reached(
    instance: Instance, targets: Targets, others: dict[int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "_UNTIL_SCRAPED", 0.3)
    targets.health = others
    with pytest.raises(StackError, match="9121") as caught:
        selftest.watch(instance, [services.REDIS_EXPORTER, services.POSTGRES_EXPORTER])
    assert instance["PROMETHEUS_PORT"] in caught.value.hint
