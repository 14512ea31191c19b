"""Reading GeoNames: one record, and the whole of it."""

import pytest

from project_contracts.statistics import CONTINENTS
from worker.domain.geography import Country
from worker.domain.geonames import load_world, parse_city

RECORD = {
    "geonameid": 3513090,
    "name": "Willemstad",
    "latitude": 12.1084,
    "longitude": -68.93354,
    "countrycode": "CW",
    "population": 125000,
    "timezone": "America/Curacao",
    "admin1code": "00",
    "alternatenames": ["Punda", "WILLEMSTADT "],
}


@pytest.mark.parametrize(
    ("capital", "matches"),
    [
        ("Willemstad", True),
        ("willemstad", True),
        ("Willemstadt", True),
        ("Punda", True),
        ("Willem", False),
        ("", False),
    ],
)
def test_capital_is_matched_by_name_or_alternate_name(capital: str, matches: bool) -> None:
    city = parse_city(RECORD, Country(code="CW", continent="NA", capital=capital))
    assert city.has_capital_name is matches
    assert (city.geonameid, city.name, city.country, city.population) == (3513090, "Willemstad", "CW", 125000)
    assert (city.latitude, city.longitude, city.timezone) == (12.1084, -68.93354, "America/Curacao")


def test_a_nameless_alternate_name_is_not_a_missing_capital() -> None:
    city = parse_city({**RECORD, "alternatenames": [""]}, Country(code="BQ", continent="NA", capital=""))
    assert not city.has_capital_name


def test_world_is_complete_and_read_once() -> None:
    world = load_world()
    assert tuple(world) == CONTINENTS
    assert sum(len(continent.cities) for continent in world.values()) == 234_908
    assert sum(len(continent.countries) for continent in world.values()) == 252
    assert load_world() is world
