"""Contracts of `world-statistics`: one task per continent, one task that merges their reports.

What belongs here: names and models. The computation is in the worker (`worker/domain/statistics.py`).
"""

from typing import Annotated, Literal, get_args

from pydantic import Field

from project_contracts.contract import Payload, Result, TaskContract
from project_contracts.queues import PROJECT_WORKER

ContinentCode = Literal["AF", "AN", "AS", "EU", "NA", "OC", "SA"]
CONTINENTS: tuple[ContinentCode, ...] = get_args(ContinentCode)


class CityPopulation(Result):
    """A city among the largest of its continent."""

    geonameid: int
    name: str
    country: str = Field(description="ISO 3166-1 alpha-2")
    population: int


class Capital(Result):
    """The city that stands for a country's capital."""

    country: str = Field(description="ISO 3166-1 alpha-2")
    geonameid: int
    name: str


class ContinentReport(Result):
    """What one continent task finds.

    `median_city_population` counts only cities whose population is known (> 0).
    `mean_capital_distance_km` is the mean great-circle distance over all pairs of the continent's capitals;
    null with fewer than two.
    """

    continent: ContinentCode
    countries: int = Field(description="living countries, dead ones excluded")
    cities: int
    population: int = Field(description="sum of the city populations")
    largest_cities: list[CityPopulation]
    median_city_population: float | None
    mean_capital_distance_km: float | None
    timezones: list[str]
    capitals: list[Capital]
    dead_countries: list[str]
    countries_without_capital: list[str] = Field(description="living countries that name no capital")
    unmatched_capitals: list[str] = Field(description="countries whose capital is not among their cities")


class WorldReport(Result):
    """The merged report: totals over the continents, then each continent's own."""

    continents: list[ContinentReport]
    countries: int
    cities: int
    population: int
    capitals: int
    timezones: int
    largest_cities: list[CityPopulation]
    dead_countries: list[str]
    countries_without_capital: list[str]
    unmatched_capitals: list[str]


class ContinentStatisticsPayload(Payload):
    """Which continent."""

    continent: ContinentCode


class WorldReportPayload(Payload):
    """The continents' reports, as the chord hands them over."""

    reports: Annotated[list[ContinentReport], Field(min_length=1, max_length=len(CONTINENTS))]


CONTINENT_STATISTICS = TaskContract(
    name="project-worker.continent_statistics",
    queue=PROJECT_WORKER,
    payload=ContinentStatisticsPayload,
    result=ContinentReport,
)

WORLD_REPORT = TaskContract(
    name="project-worker.world_report",
    queue=PROJECT_WORKER,
    payload=WorldReportPayload,
    result=WorldReport,
)
