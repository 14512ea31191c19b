"""What no package brings is started where its program is on PATH: with a stand-in for Grafana, which writes down
how it was called and answers its health check. The real one is not on the machines that run these tests.
"""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from conftest import Stack

from stack.servers import grafana

STAND_IN = """\
import http.server, json, os, sys
print("called", json.dumps([sys.argv[1:], dict(os.environ), os.getuid()]), flush=True)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

address = os.environ["GF_SERVER_HTTP_ADDR"], int(os.environ["GF_SERVER_HTTP_PORT"])
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder like that of a downloaded Grafana."""
    folder = tmp_path / "grafana"
    (folder / "bin").mkdir(parents=True)
    (folder / "conf").mkdir()
    (folder / "conf" / "defaults.ini").touch()
    (folder / "bin" / "stand_in.py").write_text(STAND_IN)
    program = folder / "bin" / "grafana"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/bin/stand_in.py "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.mark.skipif(grafana.find() is not None, reason="Grafana is installed here: it would be taken")
def test_it_is_started_with_our_dashboards_and_data_source(new_stack: Stack, home: Path) -> None:
    assert "is not installed" in new_stack.run("up", "grafana", code=3)
    new_stack.run("up", "prometheus")
    new_stack.environ["PATH"] = f"{home / 'bin'}:{os.environ['PATH']}"
    said = new_stack.run("up", "grafana")  # installed since the stack was started
    assert re.search(r"^grafana +ready", said, re.MULTILINE), said
    assert f"http://127.0.0.1:{new_stack.ports['GRAFANA_PORT']}" in said
    assert re.search(r"^grafana +running .* ok ", new_stack.run("status"), re.MULTILINE)

    line = (new_stack.state / "logs" / "grafana.log").read_text().splitlines()[0]
    words, environ, uid = json.loads(line.removeprefix("called "))
    assert words == ["server", f"--homepath={home}"]
    assert environ["PROMETHEUS_URL"] == f"http://127.0.0.1:{new_stack.ports['PROMETHEUS_PORT']}"
    assert environ["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environ["GF_SECURITY_ADMIN_PASSWORD"] == new_stack.instance["GRAFANA_PASSWORD"]
    provisioning = Path(environ["GF_PATHS_PROVISIONING"])
    assert {path.name for path in provisioning.glob("*/*.yml")} == {"prometheus.yml", "files.yml"}
    dashboards = Path(environ["DASHBOARDS_FOLDER"])
    assert Path(environ["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).is_file()
    copies = list(dashboards.glob("*.json"))
    assert len(copies) >= 9
    assert {path.stat().st_uid for path in copies} == {uid}  # who may read them
    assert uid != 0 or os.geteuid() != 0

    new_stack.run("down")
    assert new_stack.processes() == []
    assert (new_stack.state / "data" / "grafana").is_dir()
