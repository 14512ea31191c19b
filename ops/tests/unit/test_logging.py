"""The way of a log line, as far as it can be seen without Elastic's programs: what each is told, what fits what.

What a running API and worker write is stored and searched in project-api's tests (`test_logs.py`).
"""

import json
import re
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack import folders
from stack.errors import StackError
from stack.instance import Instance
from stack.servers import elastic

ROOT = Path(__file__).parents[3]
INFRA = ROOT / "infra"
SET_UP = INFRA / "elasticsearch" / "set_up.py"
DATASETS = ("fsfc.access", "fsfc.app", "fsfc.task")

FILEBEAT: dict[str, Any] = yaml.safe_load((INFRA / "filebeat" / "filebeat.yml").read_text())
INPUTS: list[dict[str, Any]] = yaml.safe_load((INFRA / "filebeat" / "docker-input.yml").read_text())
TEMPLATE: dict[str, Any] = json.loads((INFRA / "elasticsearch" / "logs@custom.json").read_text())
NDJSON = (INFRA / "kibana" / "saved-objects.ndjson").read_text()
OBJECTS: list[dict[str, Any]] = [json.loads(line) for line in NDJSON.splitlines()]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def declared(mapping: dict[str, Any], front: str = "") -> dict[str, str]:
    """The template's fields, by their dotted names."""
    found: dict[str, str] = {}
    for name, field in mapping["properties"].items():
        found |= declared(field, f"{front}{name}.") if "properties" in field else {front + name: field["type"]}
    return found


FIELDS = declared(TEMPLATE["template"]["mappings"])


# --- Elasticsearch


def test_every_field_of_the_reference_is_declared_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "logs.md").read_text()
    tables = page.partition("\n## Fields\n")[2].partition("\n### Odd lines\n")[0]
    documented = set(re.findall(r"^\| `([^`]+)` \|", tables, re.MULTILINE))
    assert FIELDS.keys() == documented | {"labels"}


def test_what_is_counted_is_a_number_and_what_is_read_is_a_text() -> None:
    kinds = {name: kind for name, kind in FIELDS.items() if kind != "keyword"}
    assert kinds == {
        "@timestamp": "date",
        "message": "match_only_text",
        "error.message": "match_only_text",
        "error.stack_trace": "match_only_text",
        "event.duration": "long",
        "http.response.status_code": "long",
        "celery.task.retries": "long",
        "labels": "flattened",  # whatever a caller puts there
    }


def test_lines_are_kept_for_a_while_and_by_us() -> None:
    template = TEMPLATE["template"]
    assert re.fullmatch(r"\d+d", template["lifecycle"]["data_retention"])
    # Elasticsearch's own template names a policy that keeps them for ever, and that would win.
    assert template["settings"] == {"index.lifecycle.prefer_ilm": False}


# --- Filebeat


def test_each_dataset_has_its_data_stream_and_nothing_else_is_sent() -> None:
    output = FILEBEAT["output.elasticsearch"]
    assert output["index"] == "logs-%{[event.dataset]}-default"
    assert (FILEBEAT["setup.template.enabled"], FILEBEAT["setup.ilm.enabled"]) == (False, False)
    dropped = FILEBEAT["processors"][0]["drop_event"]["when"]["not"]["regexp"]
    [(field, pattern)] = dropped.items()
    assert field == "event.dataset"
    assert all(re.search(pattern, dataset) for dataset in DATASETS)
    assert not [
        other
        for other in ("", "fsfc.other", "nginx.access", "fsfcxapp", "a.fsfc.app")
        if re.search(pattern, other)
    ]
    source = (ROOT / "libs/project-contracts/src/project_contracts/logs.py").read_text()
    assert all(f'"{dataset}"' in source for dataset in DATASETS)


def test_nothing_of_ours_is_left_out_of_a_document() -> None:
    gone = FILEBEAT["processors"][1]["drop_fields"]["fields"]
    assert not {name for name in FIELDS for field in gone if f"{name}.".startswith(f"{field}.")}


def test_lines_are_taken_apart_and_files_known_by_what_they_hold() -> None:
    [source] = INPUTS
    assert source["type"] == "filestream"
    assert source["id"]  # without one, Filebeat keeps no track of what it has read
    assert [name for parser in source["parsers"] for name in parser] == ["container", "ndjson"]
    ndjson = source["parsers"][-1]["ndjson"]
    # At the top of the document, its names taken apart, and its own time in place of that of reading.
    assert (ndjson["target"], ndjson["expand_keys"], ndjson["overwrite_keys"]) == ("", True, True)
    assert source["prospector.scanner.fingerprint"]["length"] >= 64  # Filebeat's least
    assert "file_identity.fingerprint" in source


def test_filebeat_reads_what_is_mounted_and_knows_every_variable() -> None:
    entry = COMPOSE["filebeat"]
    mounts = dict(reversed(mount.split(":")[:2]) for mount in entry["volumes"])
    assert mounts["/usr/share/filebeat/filebeat.yml"] == "./infra/filebeat/filebeat.yml"
    assert FILEBEAT["filebeat.config.inputs"]["path"] == "${path.config}/inputs/*.yml"
    assert mounts["/usr/share/filebeat/inputs/docker.yml"] == "./infra/filebeat/docker-input.yml"
    assert INPUTS[0]["paths"] == ["/var/lib/docker/containers/*/*-json.log*"]
    assert mounts["/var/lib/docker/containers"] == "/var/lib/docker/containers"
    assert not [target for target in mounts if "docker.sock" in target]
    assert "--path.data=/var/lib/filebeat" in entry["command"]
    assert mounts["/var/lib/filebeat"] == "filebeat-data"
    # Its check begins as it does itself: with a folder to write to.
    asked_for, *check = entry["healthcheck"]["test"]
    assert (asked_for, check[:3]) == ("CMD", ["filebeat", "test", "output"])
    assert set(entry["command"]) - {"filebeat", "-e"} == set(check[3:])
    asked = set(re.findall(r"\$\{([A-Z_]+)", (INFRA / "filebeat" / "filebeat.yml").read_text()))
    assert asked == entry["environment"].keys()


def test_containers_keep_files_that_filebeat_can_read() -> None:
    for name in ("project-api", "project-worker", "project-worker-pickle", "project-worker-reaper"):
        assert COMPOSE[name]["logging"]["driver"] == "json-file"


# --- Kibana


def test_the_committed_objects_are_what_the_program_writes() -> None:
    written = runpy.run_path(str(INFRA / "kibana" / "saved_objects.py"))["rendered"]()
    assert written == NDJSON, "run `python infra/kibana/saved_objects.py`"


def test_every_reference_leads_to_an_object_before_it() -> None:
    before: set[tuple[str, str]] = set()
    for saved in OBJECTS:
        for reference in saved["references"]:
            assert (reference["type"], reference["id"]) in before, saved["id"]
        assert (saved["type"], saved["id"]) not in before
        before.add((saved["type"], saved["id"]))
    kinds = [saved["type"] for saved in OBJECTS]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "index-pattern": 1,
        "search": 3,
        "lens": 4,
        "dashboard": 1,
    }


def test_every_name_of_a_reference_is_used() -> None:
    for saved in OBJECTS:
        for reference in saved["references"]:
            name = reference["name"]
            if saved["type"] == "search":
                source = json.loads(saved["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])
                assert source["indexRefName"] == name
            elif saved["type"] == "lens":
                layers = saved["attributes"]["state"]["datasourceStates"]["formBased"]["layers"]
                assert [f"indexpattern-datasource-layer-{layer}" for layer in layers] == [name]
            else:
                panels = {panel["panelIndex"]: panel for panel in json.loads(saved["attributes"]["panelsJSON"])}
                number, _, panel = name.partition(":")
                assert panels[number]["panelRefName"] == panel
                assert panels[number]["type"] == reference["type"]
                assert len(panels) == len(saved["references"])


def queries() -> Iterator[str]:
    for saved in OBJECTS:
        if saved["type"] == "lens":
            yield saved["attributes"]["state"]["query"]["query"]
        elif saved["type"] == "search":
            source = json.loads(saved["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])
            yield source["query"]["query"]


def test_the_data_view_has_our_data_streams() -> None:
    title = OBJECTS[0]["attributes"]["title"]
    assert title == "logs-fsfc.*"
    streams = [FILEBEAT["output.elasticsearch"]["index"].replace("%{[event.dataset]}", each) for each in DATASETS]
    assert all(stream.startswith(title.removesuffix("*")) for stream in streams)


def test_every_field_that_kibana_asks_for_is_declared() -> None:
    asked = {name for query in queries() for name in re.findall(r"([@\w.]+) : ", query)}
    for saved in OBJECTS:
        if saved["type"] == "search":
            asked.update(saved["attributes"]["columns"], (name for name, _ in saved["attributes"]["sort"]))
        elif saved["type"] == "lens":
            layers = saved["attributes"]["state"]["datasourceStates"]["formBased"]["layers"].values()
            asked.update(column["sourceField"] for layer in layers for column in layer["columns"].values())
    assert asked - {"___records___"} <= FIELDS.keys()
    assert {"http.request.id", "celery.task.id", "log.level", "event.duration"} <= asked


def test_every_column_that_a_chart_draws_or_sorts_by_is_there() -> None:
    for saved in OBJECTS:
        if saved["type"] != "lens":
            continue
        [layer] = saved["attributes"]["state"]["datasourceStates"]["formBased"]["layers"].values()
        columns = layer["columns"]
        assert layer["columnOrder"] == list(columns)
        drawn = json.dumps(saved["attributes"]["state"]["visualization"])
        names = set(re.findall(r'"(?:xAccessor|splitAccessor|columnId)": "(\w+)"', drawn))
        names.update(re.findall(r'"accessors": \["(\w+)"\]', drawn))
        assert names == set(columns), saved["id"]
        for column in columns.values():
            if column["operationType"] == "terms":
                assert FIELDS[column["sourceField"]] == "keyword"  # others have no list of values
                assert not columns[column["params"]["orderBy"]["columnId"]]["isBucketed"]


# --- Set up


class Server:
    """Answers as it is told, and keeps what it was asked."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.asked: list[tuple[str, str, str, bytes]] = []
        left = list(answers)
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked.append((self.command, self.path, self.headers.get("Authorization", ""), body))
                status, text = left.pop(0) if len(left) > 1 else left[0]
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_PUT = do_POST = answer  # noqa: N815 (http.server's names)

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def serving(*answers: tuple[int, str]) -> Iterator[Server]:
    server = Server(*answers)
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        thread.join()
        server.server.server_close()


def set_up(what: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SET_UP), what],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_template_and_kibanas_password_are_put_as_often_as_it_is_run() -> None:
    with serving((200, "{}")) as server:
        for _ in range(2):
            done = set_up(
                "elasticsearch", ELASTICSEARCH_URL=server.url, ELASTIC_PASSWORD="a", KIBANA_SYSTEM_PASSWORD="b"
            )
            assert done.returncode == 0, done.stderr
    first, second = server.asked[:2], server.asked[2:]
    assert first == second
    (method, path, login, body), (_, security, _, password) = first
    assert (method, path, login) == ("PUT", "/_component_template/logs@custom", "Basic ZWxhc3RpYzph")
    assert json.loads(body) == TEMPLATE
    assert security == "/_security/user/kibana_system/_password"
    assert json.loads(password) == {"password": "b"}


def test_without_logins_there_is_no_password_to_give() -> None:
    with serving((200, "{}")) as server:
        assert set_up("elasticsearch", ELASTICSEARCH_URL=server.url).returncode == 0
    assert [(path, login) for _, path, login, _ in server.asked] == [("/_component_template/logs@custom", "")]


def test_a_server_that_is_not_there_yet_is_asked_again() -> None:
    with serving((503, "not ready"), (200, '{"success": true}')) as server:
        done = set_up("kibana", KIBANA_URL=server.url)
        assert done.returncode == 0, done.stderr
    assert [path for _, path, _, _ in server.asked] == ["/api/saved_objects/_import?overwrite=true"] * 2
    assert NDJSON.encode() in server.asked[1][3]


@pytest.mark.parametrize(
    "answer", [(400, "no such thing"), (401, "who are you"), (200, '{"success": false, "errors": ["x"]}')]
)
def test_a_refusal_ends_it_with_the_reason(answer: tuple[int, str]) -> None:
    with serving(answer) as server:
        done = set_up("kibana", KIBANA_URL=server.url)
    assert done.returncode == 1
    assert "refused" in done.stderr or "not imported" in done.stderr
    assert len(server.asked) == 1
    assert "Traceback" not in done.stderr


def test_it_gives_up_at_its_deadline() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, and nobody listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = set_up("kibana", KIBANA_URL=url, SET_UP_DEADLINE="0")
    assert done.returncode == 1
    assert "not answered in time" in done.stderr


def test_the_set_ups_find_all_that_they_read_where_it_is_mounted() -> None:
    for what, read in (("elasticsearch", {"elasticsearch"}), ("kibana", {"elasticsearch", "kibana"})):
        entry = COMPOSE[f"{what}-setup"]
        assert entry["command"] == ["python", f"/infra/elasticsearch/{SET_UP.name}", what]
        assert set(entry["volumes"]) == {f"./infra/{folder}:/infra/{folder}:ro" for folder in read}
    source = SET_UP.read_text()
    told = COMPOSE["elasticsearch-setup"]["environment"].keys() | COMPOSE["kibana-setup"]["environment"].keys()
    assert told == set(re.findall(r'environment(?:\[|\.get\()"(\w+)"', source)) - {"SET_UP_DEADLINE"}


# --- Natively


def native(url: str, state: Path) -> Instance:
    values = {"ELASTICSEARCH_PORT": url.rpartition(":")[2], "KIBANA_PORT": "5601"}
    return Instance(repository=ROOT, state=state, values=values)


def test_before_kibana_starts_natively_elasticsearch_has_the_same_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "make_owned", lambda folder, _: folder.mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(folders, "write_owned", lambda path, text, _: path.write_text(text))
    with serving((200, "{}")) as server:
        elastic.prepare_kibana(native(server.url, tmp_path), threading.Event())
    [(method, path, login, body)] = server.asked
    assert (method, path, login) == ("PUT", "/_component_template/logs@custom", "")
    assert json.loads(body) == TEMPLATE


def test_natively_a_refused_template_is_a_failed_start(tmp_path: Path) -> None:
    with serving((400, "no handler")) as server, pytest.raises(StackError, match="no handler"):
        elastic.prepare_kibana(native(server.url, tmp_path), threading.Event())


def test_kibana_takes_what_it_is_told_of_telemetry() -> None:
    told = yaml.safe_load((INFRA / "kibana" / "kibana.yml").read_text())
    assert told["telemetry.optIn"] is False
    # With both false, its schema refuses the file: whoever may not change it has opted in.
    assert told.get("telemetry.allowChangingOptInStatus") is not False
