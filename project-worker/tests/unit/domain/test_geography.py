"""Distances on the sphere."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import city

from worker.domain.geography import EARTH_RADIUS_KM, City, great_circle_km, mean_distance_km

cities = st.builds(
    lambda latitude, longitude: city(latitude=latitude, longitude=longitude),
    st.floats(min_value=-90, max_value=90),
    st.floats(min_value=-180, max_value=180),
)


@given(cities, cities)
def test_distance_is_symmetric_and_bounded(one: City, other: City) -> None:
    assert great_circle_km(one, other) == pytest.approx(great_circle_km(other, one), abs=1e-9)
    assert 0 <= great_circle_km(one, other) <= math.pi * EARTH_RADIUS_KM
    assert great_circle_km(one, one) == 0


@given(cities, cities, cities)
def test_no_detour_is_shorter(one: City, over: City, other: City) -> None:
    assert great_circle_km(one, other) <= great_circle_km(one, over) + great_circle_km(over, other) + 1e-4


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0), (0, 180), math.pi * EARTH_RADIUS_KM),  # antipodes
        ((90, 0), (0, 77), math.pi / 2 * EARTH_RADIUS_KM),  # pole to equator
        ((0, 179.5), (0, -179.5), math.radians(1) * EARTH_RADIUS_KM),  # over the date line
        ((48.85341, 2.3488), (51.50853, -0.12574), 343.9),  # Paris to London
    ],
)
def test_known_distances(one: tuple[float, float], other: tuple[float, float], expected: float) -> None:
    places = [city(latitude=latitude, longitude=longitude) for latitude, longitude in (one, other)]
    assert great_circle_km(*places) == pytest.approx(expected, rel=1e-3)


def test_mean_is_over_all_pairs() -> None:
    corners = [city(latitude=0, longitude=0), city(latitude=0, longitude=90), city(latitude=90, longitude=0)]
    assert mean_distance_km(corners) == pytest.approx(math.pi / 2 * EARTH_RADIUS_KM)
    on_a_line = [city(longitude=0), city(longitude=1), city(longitude=3)]
    assert mean_distance_km(on_a_line) == pytest.approx(math.radians(2) * EARTH_RADIUS_KM)  # (1 + 3 + 2) / 3
    assert mean_distance_km(corners[:1]) is None
    assert mean_distance_km([]) is None
