"""Where log lines are searched: an Elasticsearch API with our template, and the saved searches of Kibana.

Without ELASTICSEARCH_URL it is osmem's, in memory. That one is OpenSearch's dialect: it knows no data streams and
no retention, and calls `flattened` `flat_object`. What it is given differs from the real template in that, and in
nothing else. With ELASTICSEARCH_URL (and ELASTIC_PASSWORD, where a login is asked for), it is the real thing, set
up as by compose.yaml.
"""

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from osmem_server import OsmemServer

INFRA = Path(__file__).parents[3] / "infra"
Line = Mapping[str, Any]


class LogStore:
    """Holds lines as Filebeat would send them, in data streams that nobody else uses."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        found = re.search(
            r'^  index: "(\S+)-default"$', (INFRA / "filebeat/filebeat.yml").read_text(), re.MULTILINE
        )
        assert found
        self._stream = found[1].replace("%{[event.dataset]}", "{}") + f"-{uuid.uuid4().hex}"

    @property
    def streams(self) -> str:
        """All of this store's."""
        return self._stream.format("fsfc.*")

    def add(self, lines: Sequence[Line]) -> list[str]:
        """Store the lines, each under its number; return what was refused."""
        body = ""
        for number, line in enumerate(lines):
            stream = self._stream.format(line["event.dataset"])
            body += json.dumps({"create": {"_index": stream, "_id": str(number)}}) + "\n"
            body += json.dumps(nested(line)) + "\n"
        headers = {"Content-Type": "application/x-ndjson"}
        answer = self._http.post("/_bulk?refresh=true", content=body, headers=headers).raise_for_status()
        results = [item["create"] for item in answer.json()["items"]]
        assert len(results) == len(lines)
        # Elasticsearch would keep a document and leave out a field that it cannot read.
        return [json.dumps(each) for each in results if each["status"] != 201] + self._ignored()

    def types(self) -> dict[str, set[str]]:
        """Every field's types, by its dotted name, over all data streams."""
        mappings = self._http.get(f"/{self.streams}/_mapping").raise_for_status().json()
        found: dict[str, set[str]] = {}
        for index in mappings.values():
            for name, kind in declared(index["mappings"]).items():
                found.setdefault(name, set()).add(kind)
        return found

    def search(self, name: str, value: str = "") -> set[int]:
        """Return the numbers of the lines that a saved search finds, with `value` in place of ID."""
        query = lucene(saved_query(name).replace('"ID"', f'"{value}"'))
        body = {"query": {"query_string": {"query": query}}, "size": 10_000}
        answer = self._http.post(f"/{self.streams}/_search", json=body).raise_for_status().json()
        return {int(hit["_id"]) for hit in answer["hits"]["hits"]}

    def _ignored(self) -> list[str]:
        body = {"query": {"exists": {"field": "_ignored"}}}
        answer = self._http.post(f"/{self.streams}/_search", json=body).raise_for_status().json()
        return [json.dumps(hit) for hit in answer["hits"]["hits"]]


@contextmanager
def log_store() -> Iterator[LogStore]:
    """A store with our template; its lines go with it."""
    if url := os.environ.get("ELASTICSEARCH_URL"):
        program = [sys.executable, str(INFRA / "elasticsearch/set_up.py"), "elasticsearch"]
        environ = {**os.environ, "SET_UP_DEADLINE": "30"}  # s
        done = subprocess.run(program, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ELASTICSEARCH_URL={url}: {done.stdout}{done.stderr}"
        password = os.environ.get("ELASTIC_PASSWORD")
        with httpx.Client(base_url=url, timeout=60, auth=("elastic", password) if password else None) as http:
            store = LogStore(http)
            try:
                yield store
            finally:
                http.delete(f"/_data_stream/{store.streams}").raise_for_status()
        return
    server = OsmemServer.start()
    # The process' own end comes last: it closes pipes that the server's leaves open.
    with server.process, server, httpx.Client(base_url=server.url, timeout=60) as http:
        http.put("/_component_template/logs@custom", json=opensearch(template())).raise_for_status()
        logs = {"index_patterns": ["logs-*-*"], "composed_of": ["logs@custom"], "priority": 100}
        http.put("/_index_template/logs", json=logs).raise_for_status()  # as Elasticsearch's own
        yield LogStore(http)


def template() -> dict[str, Any]:
    """Our component template, as written."""
    read: dict[str, Any] = json.loads((INFRA / "elasticsearch/logs@custom.json").read_text())
    return read


def opensearch(component: dict[str, Any]) -> dict[str, Any]:
    """The same in OpenSearch's dialect."""
    del component["template"]["settings"], component["template"]["lifecycle"]
    component["template"]["mappings"]["properties"]["labels"] = {"type": "flat_object"}
    return component


def declared(mapping: Mapping[str, Any], front: str = "") -> dict[str, str]:
    """A mapping's fields, by their dotted names."""
    found: dict[str, str] = {}
    for name, field in mapping.get("properties", {}).items():
        if "properties" in field:
            found |= declared(field, f"{front}{name}.")
        else:
            found[front + name] = field["type"].replace("flat_object", "flattened")
    return found


def nested(line: Line) -> dict[str, Any]:
    """What Filebeat's `expand_keys` makes of a line."""
    document: dict[str, Any] = {}
    for name, value in line.items():
        *fronts, last = name.split(".")
        place = document
        for front in fronts:
            place = place.setdefault(front, {})
        assert last not in place, f"{name} contradicts another field"
        place[last] = value
    return document


def saved_query(name: str) -> str:
    """The query of one of Kibana's saved searches."""
    for line in (INFRA / "kibana/saved-objects.ndjson").read_text().splitlines():
        saved = json.loads(line)
        if (saved["type"], saved["id"]) == ("search", name):
            source = json.loads(saved["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])
            query: str = source["query"]["query"]
            return query
    raise LookupError(name)


def lucene(kql: str) -> str:
    """A query of Kibana's language in Elasticsearch's: for `field : "value"`, lists of values, and `or`."""
    query = kql.replace(" : ", ":").replace(" or ", " OR ")
    assert re.fullmatch(r'[\w.]+:(\("[^"]*"( OR "[^"]*")*\)|"[^"]*")( OR [\w.]+:"[^"]*")*', query), query
    return query
