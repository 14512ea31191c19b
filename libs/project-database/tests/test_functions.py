"""What SQL computes for searches and distances."""

import math
from itertools import pairwise
from random import Random

import pytest
from sqlalchemy import Text, cast, func, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from project_database.sessions import Database


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("Zürich", "zurich"),
        ("SÃO PAULO", "sao paulo"),
        ("Łódź", "lodz"),
        ("Þórshöfn", "thorshofn"),
        ("北京", "北京"),
        ("", ""),
    ],
)
async def test_accents_and_case_do_not_matter(database: Database, written: str, form: str) -> None:
    async with database.transaction() as session:
        assert await session.scalar(select(func.search_form(written))) == form
        names = cast([written, "Other"], ARRAY(Text))
        assert await session.scalar(select(func.search_forms(names))) == [form, "other"]
        assert await session.scalar(select(func.search_form(literal(None, Text)))) is None


async def test_the_search_path_does_not_matter(database: Database) -> None:
    """An index that depends on it is wrong after a restore: pg_dump empties it."""
    async with database.transaction() as session:
        await session.execute(text("SET LOCAL search_path = ''"))
        assert await session.scalar(text("SELECT public.search_form('Zürich')")) == "zurich"
        assert await session.scalar(text("SELECT public.search_forms(ARRAY['Zürich'])")) == ["zurich"]
        assert await session.scalar(text("SELECT public.unit_sphere(90, 0)::text")) == "(0, 0, 1)"


def angle(one: tuple[float, float], other: tuple[float, float]) -> float:
    """The angle between two places seen from the centre of the Earth, in radians (haversine)."""
    (lat1, lon1), (lat2, lon2) = (map(math.radians, place) for place in (one, other))
    a = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * math.asin(math.sqrt(min(1, a)))


async def test_distances_on_the_unit_sphere_are_those_of_great_circles(database: Database) -> None:
    random = Random(6)
    places = [(random.uniform(-90, 90), random.uniform(-180, 180)) for _ in range(100)]
    places += [(90.0, 0.0), (-90.0, 12.0), (0.0, 180.0), (0.0, -180.0), (0.0, 0.0)]
    distance = text("SELECT unit_sphere(:a, :b) <-> unit_sphere(:c, :d)")
    async with database.transaction() as session:
        for one, other in pairwise(places):
            chord = await session.scalar(distance, dict(zip("abcd", (*one, *other), strict=True)))
            assert 2 * math.asin(min(1, chord / 2)) == pytest.approx(angle(one, other), abs=1e-7)
