"""Contract of a country's statistics: sent when one of its cities was written, in the same transaction.

What belongs here: name and models. The computation is in the worker (`worker/tasks/countries.py`).
"""

from pydantic import Field

from project_contracts.contract import Payload, Result, TaskContract
from project_contracts.places import CountryCode
from project_contracts.queues import PROJECT_WORKER


class CountryStatisticsPayload(Payload):
    """Which country."""

    country_code: CountryCode


class CountryStatistics(Result):
    """What a country's cities add up to; `largest_city` is a geonameid, null without cities."""

    country_code: CountryCode
    cities: int
    population: int = Field(description="sum of the city populations")
    largest_city: int | None


COUNTRY_STATISTICS = TaskContract(
    name="project-worker.country_statistics",
    queue=PROJECT_WORKER,
    payload=CountryStatisticsPayload,
    result=CountryStatistics,
)
