"""Reports: on small data by hand, and their merge by its laws."""

from hypothesis import given
from hypothesis import strategies as st
from places import city
from pytest import approx, mark, raises

from project_contracts.statistics import CONTINENTS, ContinentCode, ContinentReport, WorldReport
from worker.domain.geography import City, Continent, Country
from worker.domain.statistics import LARGEST, find_capitals, merge, report_continent

FRANCE = Country(code="FR", continent="EU", capital="Paris")
SPAIN = Country(code="ES", continent="EU", capital="Madrid")
PALAU = Country(code="PW", continent="OC", capital="Melekeok")
BONAIRE = Country(code="BQ", continent="NA", capital="")
ANTILLES = Country(code="AN", continent="NA", capital="Willemstad")


def test_report_of_a_small_continent() -> None:
    paris = city(10, name="Paris", population=300, has_capital_name=True, latitude=0, longitude=0)
    madrid = city(20, name="Madrid", country="ES", population=200, has_capital_name=True, latitude=90)
    village = city(30, name="Village", population=0, timezone="Europe/Busingen")
    town = city(40, name="Town", population=100)
    continent = Continent(
        countries=(SPAIN, FRANCE, PALAU, BONAIRE, ANTILLES), cities=(village, town, madrid, paris)
    )

    report = report_continent("EU", continent)

    assert report.continent == "EU"
    assert report.countries == 4
    assert report.cities == 4
    assert report.population == 600
    assert [each.geonameid for each in report.largest_cities] == [10, 20, 40, 30]
    assert report.largest_cities[1].model_dump() == {
        "geonameid": 20,
        "name": "Madrid",
        "country": "ES",
        "population": 200,
    }
    assert report.median_city_population == 200  # the village's population is unknown, not zero
    assert report.mean_capital_distance_km == approx(10007.557, abs=0.001)  # a quarter of 2π × 6371.0088 km
    assert report.timezones == ["Europe/Busingen", "Europe/Paris"]
    assert [(each.country, each.geonameid, each.name) for each in report.capitals] == [
        ("ES", 20, "Madrid"),
        ("FR", 10, "Paris"),
    ]
    assert report.dead_countries == ["AN"]
    assert report.countries_without_capital == ["BQ"]
    assert report.unmatched_capitals == ["PW"]


def test_report_of_an_empty_continent() -> None:
    report = report_continent("AN", Continent(countries=(), cities=()))
    assert (report.countries, report.cities, report.population) == (0, 0, 0)
    assert report.median_city_population is None
    assert report.mean_capital_distance_km is None
    assert (report.largest_cities, report.capitals, report.timezones) == ([], [], [])


def test_median_of_an_even_number_lies_between() -> None:
    cities = tuple(city(number, population=population) for number, population in enumerate((5, 1, 10, 2)))
    assert report_continent("EU", Continent(countries=(FRANCE,), cities=cities)).median_city_population == 3.5


def test_only_the_ten_largest_are_named_and_ties_go_to_the_smaller_id() -> None:
    cities = tuple(city(number, population=500) for number in (5, 3, 9, 1, 7, 2, 8, 11, 4, 10, 6, 12))
    report = report_continent("EU", Continent(countries=(FRANCE,), cities=cities))
    assert [each.geonameid for each in report.largest_cities] == list(range(1, LARGEST + 1))


@mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_largest_of_the_cities_with_the_capital_s_name_is_the_capital(order: tuple[int, ...]) -> None:
    candidates = (
        city(1, population=10, has_capital_name=True),
        city(2, population=90, has_capital_name=True),
        city(3, population=90, has_capital_name=True),
    )
    bigger_but_elsewhere = city(4, country="US", population=10**6, has_capital_name=True)
    bigger_by_another_name = city(5, population=10**6)
    cities = [*(candidates[position] for position in order), bigger_but_elsewhere, bigger_by_another_name]
    assert [each.geonameid for each in find_capitals([FRANCE], cities)] == [2]


def test_dead_country_has_no_capital_even_when_a_city_carries_its_code() -> None:
    cities = (city(1, country="AN", has_capital_name=True),)
    report = report_continent("NA", Continent(countries=(ANTILLES,), cities=cities))
    assert report.capitals == []
    assert report.unmatched_capitals == []
    assert report.cities == 1


cities_anywhere = st.lists(
    st.builds(
        lambda geonameid, population, country, zone, capital: city(
            geonameid, population=population, country=country, timezone=zone, has_capital_name=capital
        ),
        st.integers(1, 10**6),
        st.integers(0, 50),
        st.sampled_from(["FR", "ES", "AN"]),
        st.sampled_from(["Europe/Paris", "Europe/Madrid", "Asia/Tokyo"]),
        st.booleans(),
    ),
    unique_by=lambda each: each.geonameid,
    max_size=30,
)


@given(cities_anywhere, st.randoms(use_true_random=False))
def test_report_does_not_depend_on_the_order_of_cities(cities: list[City], random: object) -> None:
    countries = (FRANCE, SPAIN, ANTILLES)
    shuffled = cities.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types its random as object
    assert report_continent("EU", Continent(countries=countries, cities=shuffled)) == report_continent(
        "EU", Continent(countries=countries, cities=cities)
    )


def reports_of(cities: list[City]) -> list[ContinentReport]:
    """Deal the cities out to the continents."""
    return [
        report_continent(code, Continent(countries=(FRANCE, SPAIN), cities=cities[position :: len(CONTINENTS)]))
        for position, code in enumerate(CONTINENTS)
    ]


@given(cities_anywhere, st.permutations(range(len(CONTINENTS))))
def test_merge_does_not_depend_on_the_order_of_reports(cities: list[City], order: list[int]) -> None:
    reports = reports_of(cities)
    assert merge([reports[position] for position in order]) == merge(reports)


@given(cities_anywhere)
def test_merge_says_what_one_look_at_the_whole_says(cities: list[City]) -> None:
    merged = merge(reports_of(cities))
    whole = report_continent("EU", Continent(countries=(FRANCE, SPAIN), cities=cities))
    assert (merged.cities, merged.population) == (whole.cities, whole.population)
    assert merged.largest_cities == whole.largest_cities
    assert merged.timezones == len(whole.timezones)
    assert merged.capitals == sum(len(report.capitals) for report in merged.continents)
    assert [report.continent for report in merged.continents] == sorted(CONTINENTS)


def test_reports_survive_the_way_through_json() -> None:
    report = merge(reports_of([city(number, population=number) for number in range(40)]))
    assert WorldReport.model_validate(report.model_dump(mode="json")) == report


@mark.parametrize("code", CONTINENTS)
def test_continent_reported_twice_is_refused(code: ContinentCode) -> None:
    reports = reports_of([])
    with raises(ValueError, match=f"continent {code} is reported twice"):
        merge([*reports, next(report for report in reports if report.continent == code)])
