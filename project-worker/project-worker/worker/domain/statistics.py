"""`world-statistics`: one report per continent, and their merge.

How it works: `report_continent` looks at one continent alone, so that the continents can be worked side by
side; `merge` needs nothing but the reports.

What belongs here: pure functions from data to reports. The reports' shapes are contracts
(`project_contracts.statistics`).
"""

import heapq
import statistics
from collections.abc import Sequence
from itertools import pairwise

from project_contracts.statistics import (
    Capital,
    CityPopulation,
    ContinentCode,
    ContinentReport,
    WorldReport,
)
from worker.domain.geography import City, Continent, Country, mean_distance_km

LARGEST = 10
"""How many of the largest cities a report names."""

DEAD_COUNTRIES = frozenset({"AN", "CS"})
"""Codes that GeoNames still lists and that were withdrawn: Netherlands Antilles (ANHH, 2010) and Serbia and
Montenegro (CSXX, 2006), ISO 3166-3. GeoNames files their cities under the successors; none carries these
codes."""


def report_continent(code: ContinentCode, continent: Continent) -> ContinentReport:
    """Compute the report of one continent; `ContinentReport` says what each figure means."""
    living = sorted(
        (country for country in continent.countries if country.code not in DEAD_COUNTRIES),
        key=lambda country: country.code,
    )
    capitals = find_capitals(living, continent.cities)
    known_populations = [city.population for city in continent.cities if city.population > 0]
    distance = mean_distance_km(capitals)
    return ContinentReport(
        continent=code,
        countries=len(living),
        cities=len(continent.cities),
        population=sum(known_populations),
        largest_cities=[
            CityPopulation(
                geonameid=city.geonameid, name=city.name, country=city.country, population=city.population
            )
            for city in heapq.nsmallest(LARGEST, continent.cities, key=_largest_first)
        ],
        median_city_population=float(statistics.median(known_populations)) if known_populations else None,
        mean_capital_distance_km=None if distance is None else round(distance, 3),  # to the metre
        timezones=sorted({city.timezone for city in continent.cities}),
        capitals=[Capital(country=city.country, geonameid=city.geonameid, name=city.name) for city in capitals],
        dead_countries=sorted(country.code for country in continent.countries if country.code in DEAD_COUNTRIES),
        countries_without_capital=[country.code for country in living if not country.capital],
        unmatched_capitals=sorted(
            {country.code for country in living if country.capital} - {city.country for city in capitals}
        ),
    )


def find_capitals(countries: Sequence[Country], cities: Sequence[City]) -> list[City]:
    """Return the capitals of `countries`, at most one each, in the order of their country codes.

    Of a country's cities that bear its capital's name, the largest is the capital.
    """
    codes = {country.code for country in countries}
    capitals: dict[str, City] = {}
    for city in cities:
        if city.has_capital_name and city.country in codes:
            capitals[city.country] = min(capitals.get(city.country, city), city, key=_largest_first)
    return [capitals[code] for code in sorted(capitals)]


def merge(reports: Sequence[ContinentReport]) -> WorldReport:
    """Merge the continents' reports, in whatever order they come.

    Raises:
        ValueError: a continent is reported twice.
    """
    continents = sorted(reports, key=lambda report: report.continent)
    for one, other in pairwise(continents):
        if one.continent == other.continent:
            raise ValueError(f"continent {one.continent} is reported twice: send each continent's report once")
    return WorldReport(
        continents=continents,
        countries=sum(report.countries for report in continents),
        cities=sum(report.cities for report in continents),
        population=sum(report.population for report in continents),
        capitals=sum(len(report.capitals) for report in continents),
        timezones=len({timezone for report in continents for timezone in report.timezones}),
        largest_cities=heapq.nsmallest(
            LARGEST, (city for report in continents for city in report.largest_cities), key=_largest_first
        ),
        dead_countries=sorted(code for report in continents for code in report.dead_countries),
        countries_without_capital=sorted(
            code for report in continents for code in report.countries_without_capital
        ),
        unmatched_capitals=sorted(code for report in continents for code in report.unmatched_capitals),
    )


def _largest_first(city: City | CityPopulation) -> tuple[int, int]:
    # Cities of the same size are ordered by their id, so that a report is the same each time.
    return -city.population, city.geonameid
