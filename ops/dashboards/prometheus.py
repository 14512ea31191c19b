"""Asking Prometheus what a panel asks, with Grafana's variables filled in as Grafana does.

What belongs here: the HTTP API's two queries.
"""

import json
import math
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from dashboards.model import Target

_PATIENCE = 30.0  # s
_SCRAPE_INTERVAL = 5  # s; as in infra/prometheus/prometheus.yml and in Grafana's data source
_POINTS = 180  # of a line

# Without proxies from the environment: the address is this machine's.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class PrometheusError(Exception):
    """Prometheus does not answer, or refuses a query."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A time shown: until `end` (seconds since 1970), for `seconds`."""

    end: float
    seconds: int

    @property
    def step(self) -> int:
        """Seconds between two points of a line."""
        return max(_SCRAPE_INTERVAL, self.seconds // _POINTS)


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: its name, and its points (seconds since 1970, value); what is no number is left out."""

    name: str
    points: Sequence[tuple[float, float]]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1]


def fill_in(expr: str, span: Span) -> str:
    """Return the expression with Grafana's variables replaced.

    `$__rate_interval` is what Grafana makes it: the larger of a step and a scrape together, and of four scrapes.
    """
    rate_interval = max(span.step + _SCRAPE_INTERVAL, 4 * _SCRAPE_INTERVAL)
    return expr.replace("$__rate_interval", f"{rate_interval}s").replace("$__range", f"{span.seconds}s")


def ask(url: str, target: Target, span: Span) -> list[Series]:
    """Return what a panel's query finds; series without any number are left out.

    Args:
        url: Prometheus' address.
        target: The query.
        span: The time shown; an instant query is asked at its end.

    Raises:
        PrometheusError: It does not answer, or refuses the query.
    """
    expr = fill_in(target.expr, span)
    if target.is_instant:
        found = _get(url, "query", {"query": expr, "time": f"{span.end:.3f}"})
        points_of = [(one["metric"], [one["value"]]) for one in found]
    else:
        begin = span.end - span.seconds
        words = {"query": expr, "start": f"{begin:.3f}", "end": f"{span.end:.3f}", "step": f"{span.step}"}
        points_of = [(one["metric"], one["values"]) for one in _get(url, "query_range", words)]
    series = []
    for labels, raw in points_of:
        points = [(time, float(value)) for time, value in raw if math.isfinite(float(value))]
        if points:
            series.append(Series(name=_name(target.legend, labels), points=points))
    return sorted(series, key=lambda one: one.name)


def _name(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), legend)


def _get(url: str, path: str, words: Mapping[str, str]) -> Any:
    request = urllib.request.Request(f"{url}/api/v1/{path}", data=urlencode(words).encode())  # noqa: S310 (http://)
    try:
        with _OPENER.open(request, timeout=_PATIENCE) as answer:
            return json.loads(answer.read())["data"]["result"]
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(1000).decode(errors="replace")
        raise PrometheusError(f"Prometheus refuses {words['query']}: {said}") from error
    except OSError as error:  # includes URLError and timeouts
        raise PrometheusError(f"Prometheus does not answer at {url}: {error}") from error
