"""What a city's and a country's fields may hold: one rule each, for the API's models and for imported files.

How it works: each type is a plain type with its bounds, for the fields of pydantic models. The models decide how
strictly they read: the API's take JSON's own types, the worker's read the texts of a file. The schema of the
database (`project_database.tables`) has room for what passes here.

What belongs here: types of fields, and nothing that only one project needs.
"""

from functools import cache
from typing import Annotated
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, StringConstraints

from project_contracts.contract import MAX_SAFE_INTEGER

MAX_GEONAMEID = 2**31 - 1
"""Largest value of PostgreSQL's `integer`, and far above the ids of GeoNames (13 million)."""

MAX_NAME_LENGTH = 250
"""Longest name, in characters."""

MAX_ALTERNATE_NAMES = 500
"""GeoNames lists at most 267 for a place."""

GeonameId = Annotated[int, Field(ge=1, le=MAX_GEONAMEID)]

# Surrounding spaces are no part of a name; PostgreSQL has no text with a NUL.
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME_LENGTH, pattern=r"^[^\x00]+$"),
]

AlternateNames = Annotated[list[Name], Field(max_length=MAX_ALTERNATE_NAMES)]

CountryCode = Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166-1 alpha-2")]

Admin1Code = Annotated[
    str,
    Field(min_length=1, max_length=20, pattern=r"^[^\x00]+$", description="GeoNames' code of the first level"),
]

Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False, description="degrees north")]

Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False, description="degrees east")]

Population = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER, description="0: unknown")]


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones())


def _known(timezone: str) -> str:
    if timezone not in _timezones():
        raise ValueError("not a time zone of the IANA database, such as Europe/Paris")
    return timezone


Timezone = Annotated[
    str, Field(max_length=50), AfterValidator(_known), Field(description="name in the IANA database")
]


def parse_geonameid(text: str) -> int | None:
    """Return the geonameid that a field of a file spells in decimal digits, None where it spells none."""
    digits = text.strip()
    # 4,300 digits and more would raise in int().
    if not digits.isascii() or not digits.isdigit() or len(digits) > len(str(MAX_GEONAMEID)):
        return None
    number = int(digits)
    return number if 1 <= number <= MAX_GEONAMEID else None
