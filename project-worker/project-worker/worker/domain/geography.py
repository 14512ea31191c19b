"""Places, and distances between them.

What belongs here: value types of places, and geometry on the sphere. Where the data comes from is in
`geonames.py`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from project_contracts.statistics import ContinentCode

EARTH_RADIUS_KM = 6371.0088
"""Mean radius R1 = (2a + b) / 3 of the reference ellipsoid (IUGG; Moritz, Geodetic Reference System 1980)."""


class City(NamedTuple):
    """A populated place. A tuple, because a process keeps 234,908 of them."""

    geonameid: int
    name: str
    country: str  # ISO 3166-1 alpha-2
    population: int  # 0: unknown
    latitude: float  # degrees
    longitude: float  # degrees
    timezone: str  # IANA name
    has_capital_name: bool  # its name or an alternate name is that of its country's capital


@dataclass(frozen=True, kw_only=True)
class Country:
    """A country as GeoNames lists it."""

    code: str  # ISO 3166-1 alpha-2
    continent: ContinentCode
    capital: str  # "" when it names none


@dataclass(frozen=True, kw_only=True)
class Continent:
    """The countries of a continent and their cities."""

    countries: Sequence[Country]
    cities: Sequence[City]


def great_circle_km(one: City, other: City) -> float:
    """Return the great-circle distance of two cities in km, by the haversine formula.

    The haversine stays exact for small distances, where the plain law of cosines does not
    (R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68, 1984).
    """
    latitude, other_latitude = math.radians(one.latitude), math.radians(other.latitude)
    half_chord_squared = (
        math.sin((other_latitude - latitude) / 2) ** 2
        + math.cos(latitude)
        * math.cos(other_latitude)
        * math.sin(math.radians(other.longitude - one.longitude) / 2) ** 2
    )
    # Rounding may lift the value of antipodes a little above 1.
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, half_chord_squared)))


def mean_distance_km(cities: Sequence[City]) -> float | None:
    """Return the mean distance over all pairs of `cities` in km, None with fewer than two."""
    if len(cities) < 2:
        return None
    distances = [great_circle_km(one, other) for one, other in combinations(cities, 2)]
    return math.fsum(distances) / len(distances)
