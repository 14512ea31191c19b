"""Turns a row of an imported file into a city, or says why it is none.

How it works: a row is its fields as text, in the order of the file's header. Each field is read as what its
column holds, then the rules that also hold for the API's clients decide (`project_contracts.places`). All columns
are judged by pydantic in one call per row: rows come by the hundred thousand.

What belongs here: what a field's text means, and what the owner of a bad row is told. Splitting files into fields
is the API's (`app/core/records.py`); whether a country exists is the database's to know.
"""

import re
from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from project_contracts.contract import MAX_SAFE_INTEGER
from project_contracts.imports import COLUMNS
from project_contracts.places import (
    MAX_ALTERNATE_NAMES,
    MAX_GEONAMEID,
    MAX_NAME_LENGTH,
    Admin1Code,
    AlternateNames,
    CountryCode,
    GeonameId,
    Latitude,
    Longitude,
    Name,
    Population,
    Timezone,
    parse_geonameid,
)

SEPARATOR = "|"
"""Stands between alternate names."""

MAX_SHOWN_LENGTH = 40
"""Longest part of a wrong value that its error repeats, in characters."""

RULES = {
    "geonameid": f"a whole number from 1 to {MAX_GEONAMEID}: write its digits alone, such as 2988507",
    "name": f"a name: write 1 to {MAX_NAME_LENGTH} characters",
    "country_code": "a country: write the two capital letters of ISO 3166-1, such as FR",
    "latitude": "a latitude: write degrees from -90 to 90 with a decimal point, such as 48.85341",
    "longitude": "a longitude: write degrees from -180 to 180 with a decimal point, such as 2.3488",
    "timezone": "a time zone: write its name in the IANA database, such as Europe/Paris",
    "alternate_names": (
        f"a list of names: write at most {MAX_ALTERNATE_NAMES}, of at most {MAX_NAME_LENGTH} characters each, "
        f"with {SEPARATOR} between them"
    ),
    "admin1_code": "a code of the first level: write at most 20 characters, or nothing",
    "population": (
        f"a whole number from 0 to {MAX_SAFE_INTEGER}: write its digits alone, such as 12000, or nothing"
    ),
}
"""What each column holds, as the end of the sentence that refuses a value."""

_DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


class CityRow(NamedTuple):
    """A city as a file describes it. A tuple in the order of `COLUMNS`, ready for COPY."""

    geonameid: int
    name: str
    country_code: str
    latitude: float
    longitude: float
    timezone: str
    alternate_names: list[str]
    admin1_code: str | None
    population: int


class RowError(ValueError):
    """A row is no city; the message says to its owner what to write instead."""


def _decimal(text: str) -> str:
    if not _DECIMAL.fullmatch(number := text.strip()):
        raise ValueError
    return number


def _whole_number(text: str) -> str:
    number = text.strip()
    if not number:
        return "0"
    if not (number.isascii() and number.isdigit()):
        raise ValueError
    return number


def _names(text: str) -> list[str]:
    return [name for name in text.split(SEPARATOR) if name and not name.isspace()]


def _none_if_blank(text: str) -> str | None:
    return text.strip() or None


_city = TypeAdapter(
    tuple[
        Annotated[GeonameId, BeforeValidator(parse_geonameid)],
        Name,
        Annotated[CountryCode, BeforeValidator(str.strip)],
        Annotated[Latitude, BeforeValidator(_decimal)],
        Annotated[Longitude, BeforeValidator(_decimal)],
        Annotated[Timezone, BeforeValidator(str.strip)],
        Annotated[AlternateNames, BeforeValidator(_names)],
        Annotated[Admin1Code | None, BeforeValidator(_none_if_blank)],
        Annotated[Population, BeforeValidator(_whole_number)],
    ]
)
"""In the order of `COLUMNS`."""


def city_parser(header: Sequence[str], countries: Collection[str]) -> Callable[[Sequence[str]], CityRow]:
    """Return the function that turns the fields of one row into a city.

    Args:
        header: the columns of the rows, required ones at least, in any order. A column that it lacks is read as
            empty.
        countries: the codes of the countries that exist.

    Raises (the function):
        RowError: the row is no city, or its country does not exist.
    """
    missing = len(header)  # where a row's extra field stands, which is empty
    positions = [header.index(column) if column in header else missing for column in COLUMNS]
    pick = itemgetter(*positions)

    def parse(fields: Sequence[str]) -> CityRow:
        texts = pick((*fields, ""))
        try:
            city = CityRow._make(_city.validate_python(texts))
        except ValidationError as error:
            columns = sorted({int(problem["loc"][0]) for problem in error.errors(include_url=False)})
            raise RowError(
                "; ".join(f"{COLUMNS[n]}: {_shown(texts[n])} is not {RULES[COLUMNS[n]]}" for n in columns)
            ) from None
        if city.country_code not in countries:
            raise RowError(
                f"country_code: there is no country {city.country_code}: create it first, with POST /v1/countries"
            )
        return city

    return parse


def explain_duplicate(line: int) -> str:
    """Return what the owner of a row is told whose key stands on an earlier `line`."""
    return f"geonameid: line {line} has the same, and the first one counts: delete one of the two"


def _shown(value: str) -> str:
    return repr(value if len(value) <= MAX_SHOWN_LENGTH else f"{value[:MAX_SHOWN_LENGTH]}…")
