"""Pictures: what Prometheus is asked, and what of its answers is drawn."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import matplotlib as mpl
import pytest
from PIL import Image
from promql import ROOT

from dashboards import model, pictures
from dashboards.prometheus import PrometheusError, Span, ask, fill_in

NOW = 1_800_000_000
SPAN = Span(end=NOW, seconds=1800)


class Prometheus:
    """Stands for Prometheus: answers every query with the same series, remembers what was asked."""

    def __init__(self, series: list[tuple[dict[str, str], list[str]]]) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                words = {name: value for name, (value,) in parse_qs(body).items()}
                fake.asked.append((self.path, words))
                result: list[dict[str, Any]] = []
                for labels, values in series:
                    points = [[NOW - 60 * age, value] for age, value in enumerate(values)][::-1]
                    result.append(
                        {"metric": labels, "values": points}
                        if self.path.endswith("query_range")
                        else {"metric": labels, "value": points[-1]}
                    )
                answer = json.dumps({"data": {"result": result}}).encode()
                self.send_response(400 if "refused" in words["query"] else 200)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def busy() -> Iterator[Prometheus]:
    fake = Prometheus([({"cmd": "get", "db": "db0"}, ["1.5", "2", "NaN"]), ({"cmd": "none"}, ["NaN"])])
    yield fake
    fake.close()


@pytest.fixture
def silent() -> Iterator[Prometheus]:
    fake = Prometheus([])
    yield fake
    fake.close()


def drawn(dashboard: model.Dashboard, url: str, folder: Path) -> str:
    """The texts of a picture: drawn as SVG, which keeps them."""
    with mpl.rc_context({"svg.fonttype": "none"}):
        pictures.draw(dashboard, url, folder / "picture.svg", SPAN)
    return (folder / "picture.svg").read_text()


@pytest.fixture
def redis() -> model.Dashboard:
    return model.read(ROOT / "infra" / "grafana" / "dashboards" / "redis.json")


def test_titles_units_and_legends_are_drawn(busy: Prometheus, redis: model.Dashboard, tmp_path: Path) -> None:
    text = drawn(redis, busy.url, tmp_path)
    assert redis.title in text
    for title in [*(row.title for row in redis.rows), *(panel.title for panel in redis.panels)]:
        assert f">{title}<" in text
    assert ">1.50 B<" in text  # a tile
    assert ">1.50 ops/s<" in text  # a line's last value
    assert ">get<" in text  # a line's name, from its label
    assert ">none<" not in text  # no number, no line
    assert "No data" not in text
    asked = [words["query"] for _, words in busy.asked]
    assert asked == [fill_in(one.expr, SPAN) for panel in redis.panels for one in panel.targets]
    assert not any("$" in query for query in asked)


def test_a_panel_without_data_says_so(silent: Prometheus, redis: model.Dashboard, tmp_path: Path) -> None:
    assert drawn(redis, silent.url, tmp_path).count(">No data<") == len(redis.panels)


def test_variables_are_what_grafana_makes_of_them() -> None:
    assert fill_in("rate(x[$__rate_interval])", SPAN) == "rate(x[20s])"
    assert fill_in("rate(x[$__rate_interval])", Span(end=NOW, seconds=86400)) == "rate(x[485s])"
    assert fill_in("increase(x[$__range])", SPAN) == "increase(x[1800s])"


def test_lines_are_asked_over_the_span_and_tiles_at_its_end(busy: Prometheus) -> None:
    for is_instant in (False, True):
        ask(busy.url, model.Target(expr="up", legend="", is_instant=is_instant), SPAN)
    (path, words), (instant_path, instant_words) = busy.asked
    assert path == "/api/v1/query_range"
    assert (float(words["start"]), float(words["end"]), words["step"]) == (NOW - 1800, NOW, "10")
    assert instant_path == "/api/v1/query"
    assert float(instant_words["time"]) == NOW


def test_a_refused_query_and_a_silent_server_are_errors(busy: Prometheus) -> None:
    with pytest.raises(PrometheusError, match="refuses refused"):
        ask(busy.url, model.Target(expr="refused", legend="", is_instant=True), SPAN)
    with pytest.raises(PrometheusError, match="does not answer"):
        ask("http://127.0.0.1:9", model.Target(expr="up", legend="", is_instant=True), SPAN)


def test_a_panel_that_is_not_understood_is_refused(tmp_path: Path) -> None:
    raw = json.loads((ROOT / "infra" / "grafana" / "dashboards" / "redis.json").read_text())
    raw["panels"][1]["type"] = "heatmap"
    (tmp_path / "one.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="heatmap"):
        model.read(tmp_path / "one.json")


def test_a_picture_is_small_and_keeps_its_colours(
    busy: Prometheus, redis: model.Dashboard, tmp_path: Path
) -> None:
    pictures.draw(redis, busy.url, tmp_path / "redis.png", SPAN)
    assert 10_000 < (tmp_path / "redis.png").stat().st_size < 150_000
    with Image.open(tmp_path / "redis.png") as image:
        assert image.mode == "P"
        found = {colour for _, colour in image.convert("RGB").getcolors() or ()}
    assert {(17, 18, 23), (24, 27, 31), (115, 191, 105), (242, 204, 12)} <= found  # ground, panel, two lines
