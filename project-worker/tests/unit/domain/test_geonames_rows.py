"""GeoNames as rows: two records, and the whole of it."""

from project_contracts.imports import COLUMNS
from worker.domain.city_rows import city_parser
from worker.domain.geonames import load_world
from worker.domain.geonames_rows import CountryRow, city_fields, country_row, read_city_fields, read_countries

CURACAO = {
    "geonameid": 7626836,
    "name": "Curacao ",
    "iso": "CW",
    "iso3": "CUW",
    "isonumeric": 531,
    "continentcode": "NA",
    "capital": " Willemstad",
    "areakm2": 444,
    "population": 159849,
    "tld": ".cw",
    "currencycode": "XCG",
    "currencyname": "Guilder",
    "phone": "",
    "languages": "nl,pap",
    "neighbours": "",
}


def test_a_country() -> None:
    assert country_row(CURACAO) == CountryRow(
        geonameid=7626836,
        code="CW",
        code3="CUW",
        numeric_code=531,
        name="Curacao",
        capital="Willemstad",
        continent="NA",
        population=159849,
        area_km2=444.0,
        currency_code="XCG",
        currency_name="Guilder",
        phone=None,
        tld=".cw",
        languages=["nl", "pap"],
        neighbours=[],
    )
    assert country_row(CURACAO | {"capital": ""}).capital is None


def test_all_countries_are_read_in_the_order_of_their_keys() -> None:
    keys = [country.geonameid for country in read_countries()]
    assert len(keys) == len(set(keys)) == 252
    assert keys == sorted(keys)


def test_a_city() -> None:
    assert city_fields(
        {
            "geonameid": 3513090,
            "name": "Willemstad",
            "latitude": 12.1084,
            "longitude": -68.93354,
            "countrycode": "CW",
            "population": 125000,
            "timezone": "America/Curacao",
            "admin1code": "",
            "alternatenames": ["Punda", "WILLEMSTADT "],
        }
    ) == [
        "3513090",
        "Willemstad",
        "CW",
        "12.1084",
        "-68.93354",
        "America/Curacao",
        "Punda|WILLEMSTADT ",
        "",
        "125000",
    ]


def test_all_cities_are_good_rows() -> None:
    """And they are the cities that `world-statistics` reads, in its own way."""
    expected = {city.geonameid: city for continent in load_world().values() for city in continent.cities}
    parse = city_parser(COLUMNS, {country.code for country in read_countries()})
    cities = [parse(fields) for fields in read_city_fields()]
    assert len(cities) == len(expected) == 234_908
    for city in cities:
        other = expected.pop(city.geonameid)
        assert (city.name, city.country_code, city.population) == (other.name, other.country, other.population)
        assert (city.latitude, city.longitude) == (other.latitude, other.longitude)
        assert city.timezone == other.timezone
