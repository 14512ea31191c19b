"""The cities: what is asked and written.

How it works: as in `rows.py`. The nearest cities are found by their points on a unit sphere, whose straight
distance, which a GiST index orders by, grows with the distance on the ground, over poles and date line too.

What belongs here: the queries on `cities`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import REAL, ColumnElement, Double, Integer, Select, bindparam, func, literal, select, union_all
from sqlalchemy.dialects.postgresql import array

from app.database.editing import Editor
from app.database.rows import Record, Rows
from project_database.sessions import Query
from project_database.tables import City

EARTH_RADIUS = 6371.0088
"""km; the mean radius R1 of the ellipsoid GRS 80 (Moritz, Geodetic Reference System 1980)."""


@dataclass(frozen=True, kw_only=True)
class NearCity:
    """A city and its distance on the ground, in km."""

    city: Record
    distance: float


class CityEditor(Editor[City]):
    """Changes cities, in one transaction."""

    entity = "city"
    table = City


class Cities(Rows):
    """The cities, as they are read."""

    entity = "city"
    table = City
    filters = {  # noqa: RUF012  # never changed
        "country": lambda code: City.country_code == code,
        "timezone": lambda name: City.timezone == name,
        "min_population": lambda least: City.population >= least,
        "max_population": lambda most: City.population <= most,
    }

    async def get_nearest(
        self, latitude: float, longitude: float, *, limit: int, but: int | None = None
    ) -> Sequence[NearCity]:
        """Return the cities that are nearest to a point, the nearest first.

        Args:
            latitude: degrees north.
            longitude: degrees east.
            limit: how many at most.
            but: the geonameid of a city that is left out.
        """
        values = {"latitude": latitude, "longitude": longitude, "at_most": limit, "but": but}
        found = await self._reader.read(self._nearest(but is not None), values)
        # Half the chord is the sine of half the angle; rounding may take it over 1.
        return [
            NearCity(city=self._record(row), distance=2 * EARTH_RADIUS * math.asin(min(1.0, row[-1] / 2)))
            for row in found
        ]

    @classmethod
    @cache
    def _nearest(cls, leaves_one_out: bool) -> Query:
        point = func.unit_sphere(bindparam("latitude", type_=Double), bindparam("longitude", type_=Double))
        chord: ColumnElement[float] = func.unit_sphere(City.latitude, City.longitude).op(
            "<->", return_type=Double()
        )(point)
        nearest = select(*cls._columns().values(), chord).order_by(chord)
        if leaves_one_out:
            nearest = nearest.where(City.geonameid != bindparam("but"))
        return Query(nearest.limit(bindparam("at_most", type_=Integer)))

    @classmethod
    def _find(cls, searched: ColumnElement[str]) -> Select[int, float]:
        """Return what `Rows._find` does, with alternate names that are the same but for accents and case."""
        alternates = func.search_forms(City.alternate_names).bool_op("@>")(array([searched]))
        same = select(City.geonameid, literal(1.0, REAL)).where(alternates)
        # Each half has its index. With one condition for both, PostgreSQL would compute the alternate names of
        # every candidate once more. And what is grouped is found first, whatever the list is sorted by.
        found = union_all(super()._find(searched), same).subquery()
        score = func.max(found.c.score).label("score")
        return select(found.c.geonameid, score).group_by(found.c.geonameid)
