"""What `GET /metrics` of an API, or of a worker, says; and how much it has grown since."""

from typing import Protocol

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families as parse_text

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped(Protocol):
    """Whoever has an endpoint."""

    @property
    def url(self) -> str: ...


def families(one: Scraped) -> list[Metric]:
    answer = httpx.get(f"{one.url}/metrics", timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return list(parse_text(answer.text))


def scrape(one: Scraped) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(one)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the series with these labels."""
    wanted = labels.items()
    return sum(
        each for (found, having), each in samples.items() if found == name and wanted <= dict(having).items()
    )


class Growth:
    """How much series have grown since this was made."""

    def __init__(self, one: Scraped) -> None:
        self._one = one
        self._before = scrape(one)

    def of(self, name: str, **labels: str) -> float:
        return value(scrape(self._one), name, **labels) - value(self._before, name, **labels)
