"""Cities over HTTP: written, read, refused; with several writers at a time, and against a model."""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import database
import httpx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from places import (
    CITIES,
    COUNTRIES,
    FRANCE,
    GERMANY,
    MERGE_PATCH,
    MUNICH,
    at_once,
    city,
    created,
    refused,
    without_key,
)
from processes import Api

ONE = f"{CITIES}/{MUNICH['geonameid']}"
INJECTION = "'; drop table users--"


@pytest.fixture
def http(api: Api, clean_tables: None) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=20) as client:
        created(client, COUNTRIES, GERMANY)
        created(client, COUNTRIES, FRANCE)
        yield client


@pytest.fixture
def announced(http: httpx.Client) -> Iterator[Callable[[], list[str]]]:
    """The countries whose statistics were asked for since the last time; the relay's deletes would hide them."""
    database.run("CREATE TABLE announced (position bigserial, country_code text)")
    database.run(
        "CREATE FUNCTION announce() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO announced (country_code) VALUES (NEW.kwargs ->> 'country_code'); RETURN NEW; END $$"
    )
    database.run("CREATE TRIGGER announce BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION announce()")

    def since() -> list[str]:
        rows = database.run("SELECT country_code FROM announced ORDER BY position")
        database.run("TRUNCATE announced")
        return [row["country_code"] for row in rows]

    yield since
    database.run("DROP FUNCTION announce CASCADE")
    database.run("DROP TABLE announced")


def test_a_write_has_its_countrys_statistics_computed(
    http: httpx.Client, announced: Callable[[], list[str]]
) -> None:
    tag = created(http, CITIES, MUNICH).headers["etag"]
    assert announced() == ["DE"]
    http.patch(ONE, json={"population": 7})
    assert announced() == ["DE"]
    http.put(ONE, json=without_key(MUNICH) | {"country_code": "FR"})
    assert announced() == ["DE", "FR"]
    for nothing in (
        http.patch(ONE, json={}),
        http.patch(ONE, json={"name": "X"}, headers={"If-Match": tag}),
        http.patch(ONE, json={"country_code": "XX"}),
        http.post(CITIES, json=MUNICH),
        http.delete(f"{CITIES}/1"),
    ):
        assert nothing.status_code in {200, 404, 409, 412}
    assert announced() == []
    http.delete(ONE)
    assert announced() == ["FR"]


def test_a_city_is_created_and_read(http: httpx.Client) -> None:
    response = created(http, CITIES, MUNICH)
    document = response.json()
    assert response.headers["location"] == ONE
    assert document.items() >= MUNICH.items()
    assert document["version"] == 1
    assert document["created_at"] == document["updated_at"]
    read = http.get(ONE)
    assert read.json() == document
    assert read.headers["etag"] == response.headers["etag"]
    assert read.headers["etag"].startswith('"1-')


def test_what_is_not_given_has_its_default(http: httpx.Client) -> None:
    document = created(http, CITIES, city(7)).json()
    assert (document["population"], document["alternate_names"], document["admin1_code"]) == (0, [], None)


def test_a_city_that_the_client_has_is_not_sent_again(http: httpx.Client) -> None:
    tag = created(http, CITIES, MUNICH).headers["etag"]
    for header in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        unmodified = http.get(ONE, headers={"If-None-Match": header})
        assert (unmodified.status_code, unmodified.content) == (304, b"")
        assert unmodified.headers["etag"] == tag
    assert http.get(ONE, headers={"If-None-Match": '"x"'}).status_code == 200
    refused(http.get(ONE, headers={"If-None-Match": "x"}), 400)


def test_put_replaces_all_of_a_city(http: httpx.Client) -> None:
    before = created(http, CITIES, MUNICH)
    replaced = http.put(ONE, json=without_key(city(MUNICH["geonameid"], country_code="FR")))
    document = replaced.json()
    assert (document["alternate_names"], document["admin1_code"], document["population"]) == ([], None, 0)
    assert (document["country_code"], document["version"]) == ("FR", 2)
    assert document["created_at"] == before.json()["created_at"] < document["updated_at"]
    assert replaced.headers["etag"] != before.headers["etag"]
    assert http.get(ONE).json() == document


def test_patch_changes_what_it_names(http: httpx.Client) -> None:
    before = created(http, CITIES, MUNICH).json()
    for headers in (MERGE_PATCH, {"Content-Type": "application/json"}):
        name = f"As {headers['Content-Type']}"
        patched = http.patch(ONE, json={"name": name}, headers=headers)
        assert (patched.status_code, patched.json()["name"]) == (200, name)
    after = http.patch(ONE, json={"name": "Munich", "admin1_code": None, "population": None}).json()
    kept = {"version", "updated_at", "admin1_code", "population"}
    assert {k: v for k, v in after.items() if k not in kept} == {k: v for k, v in before.items() if k not in kept}
    assert (after["admin1_code"], after["population"], after["version"]) == (None, 0, 4)


def test_a_write_that_changes_nothing_keeps_the_version(http: httpx.Client) -> None:
    tag = created(http, CITIES, MUNICH).headers["etag"]
    for unchanged in (
        http.patch(ONE, json={}),
        http.patch(ONE, json={"name": MUNICH["name"], "latitude": MUNICH["latitude"]}),
        http.put(ONE, json=without_key(MUNICH)),
    ):
        assert unchanged.status_code == 200
        assert (unchanged.headers["etag"], unchanged.json()["version"]) == (tag, 1)
        assert unchanged.json()["updated_at"] == unchanged.json()["created_at"]


def test_a_deleted_city_is_gone_and_one_made_again_is_another(http: httpx.Client) -> None:
    tag = created(http, CITIES, MUNICH).headers["etag"]
    assert http.delete(ONE).status_code == 204
    for answer in (
        http.get(ONE),
        http.delete(ONE),
        http.put(ONE, json=without_key(MUNICH)),
        http.patch(ONE, json={}),
    ):
        assert "2867714" in refused(answer, 404)["detail"]
    again = created(http, CITIES, MUNICH)
    assert again.json()["version"] == 1
    refused(http.delete(ONE, headers={"If-Match": tag}), 412)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_write_is_confined_by_if_match(http: httpx.Client, method: str) -> None:
    tag = created(http, CITIES, MUNICH).headers["etag"]
    body = {"PUT": {"json": without_key(MUNICH | {"name": "X"})}, "PATCH": {"json": {"name": "X"}}}.get(
        method, {}
    )

    def write(if_match: str) -> httpx.Response:
        return http.request(method, ONE, headers={"If-Match": if_match}, **body)  # type: ignore[arg-type]  # json

    for stale in ('"0-0"', f"W/{tag}", f'"{tag[1:-1]}x"'):
        refused(write(stale), 412)
    for malformed in ("", "1", tag[:-1], f"{tag} {tag}"):
        refused(write(malformed), 400)
    assert http.get(ONE).headers["etag"] == tag
    assert write(f'"x", {tag}').status_code in {200, 204}
    if method != "DELETE":
        refused(write(tag), 412)
        assert write("*").status_code == 200


def test_conflicts(http: httpx.Client) -> None:
    created(http, CITIES, MUNICH)
    refused(http.post(CITIES, json=MUNICH), 409)
    refused(http.post(CITIES, json=city(8, country_code="XX")), 409)
    refused(http.patch(ONE, json={"country_code": "XX"}), 409)
    refused(http.put(ONE, json=without_key(MUNICH | {"country_code": "XX"})), 409)
    assert http.get(ONE).json()["version"] == 1


@pytest.mark.parametrize(
    "name",
    [
        "東京 🗼",
        "Nu\u0308rnberg",
        "القاهرة",
        "\u202eabc",
        "👩‍👩‍👧‍👦",
        INJECTION,
        "a\nb",
        "%s %(x)s :x $1 \\",
        "é" * 250,
    ],
)
def test_names_come_back_as_they_were_sent(http: httpx.Client, name: str) -> None:
    sent = city(9, name=name, alternate_names=[name, "x"], admin1_code=name[:20])
    document = created(http, CITIES, sent).json()
    assert document.items() >= sent.items()
    assert http.get(f"{CITIES}/9").json() == document
    listed = http.get(CITIES, params={"q": f"{name} 9"[:250]}).json()["items"]
    assert listed == ([document] if any(map(str.isalnum, name)) else [])


def kilometres(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The haversine formula."""
    (lat1, lon1), (lat2, lon2) = (tuple(map(math.radians, point)) for point in (a, b))
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * 6371.0088 * math.asin(min(1.0, math.sqrt(h)))


def test_the_nearest_cities_are_those_of_brute_force(http: httpx.Client) -> None:
    numbers = random.Random(6)
    points = [(math.degrees(math.asin(numbers.uniform(-1, 1))), numbers.uniform(-180, 180)) for _ in range(400)]
    points += [(90, 0), (-90, 0), (90, 77), (0, 180), (0, -180), (0.001, 179.999), (-0.001, -179.999), (0, 0)]
    database.run(
        "INSERT INTO cities (geonameid, name, country_code, latitude, longitude, timezone) "
        "SELECT i, 'P', 'DE', lat, lon, 'UTC' "
        "FROM unnest($1::float[], $2::float[]) WITH ORDINALITY AS p(lat, lon, i)",
        [lat for lat, _ in points],
        [lon for _, lon in points],
    )
    places = dict(enumerate(points, 1))
    for here in (*points[:10], (90, 0), (-90, 123), (89.9, -180), (0, 180), (0, -180), (-17.7, 179.99)):
        query = {"latitude": here[0], "longitude": here[1], "limit": 12}
        nearest = http.get(f"{CITIES}/nearest", params=query).json()
        expected = sorted(kilometres(here, point) for point in points)[:12]
        assert [near["distance"] for near in nearest] == pytest.approx(expected, rel=1e-6, abs=1e-3)
        for near in nearest:
            truth = kilometres(here, places[near["city"]["geonameid"]])
            assert near["distance"] == pytest.approx(truth, rel=1e-6, abs=1e-3)
    near_one = http.get(f"{CITIES}/1/nearest", params={"limit": 100}).json()
    assert len(near_one) == 100
    assert 1 not in {near["city"]["geonameid"] for near in near_one}
    refused(http.get(f"{CITIES}/9999/nearest"), 404)


def test_of_fifty_concurrent_creates_one_wins(http: httpx.Client) -> None:
    answers = at_once(http, [("POST", CITIES, MUNICH | {"name": f"N{n}"}) for n in range(50)])
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 49
    (winner,) = (answer for answer in answers if answer.status_code == 201)
    assert http.get(ONE).json() == winner.json()


def test_of_concurrent_writers_with_one_etag_one_wins(http: httpx.Client) -> None:
    tag = created(http, CITIES, MUNICH).headers["etag"]
    answers = at_once(http, [("PATCH", ONE, {"population": n}) for n in range(20)], {"If-Match": tag})
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 19
    (winner,) = (answer for answer in answers if answer.status_code == 200)
    assert http.get(ONE).json() == winner.json()


def test_concurrent_patches_of_different_fields_all_stay(http: httpx.Client) -> None:
    created(http, CITIES, MUNICH)
    patches: list[dict[str, Any]] = [{"name": "A"}, {"population": 1}, {"admin1_code": "X"}, {"latitude": 1.5}]
    answers = at_once(http, [("PATCH", ONE, patch) for patch in patches])
    assert {answer.status_code for answer in answers} == {200}
    after = http.get(ONE).json()
    assert after["version"] == 5
    assert all(after.items() >= patch.items() for patch in patches)


IDS = st.integers(1, 6)
FIELDS = {
    "name": st.sampled_from("abc"),
    "population": st.integers(0, 3),
    "country_code": st.sampled_from(["DE", "FR"]),
    "alternate_names": st.lists(st.sampled_from("xyz"), max_size=2),
    "admin1_code": st.none() | st.sampled_from("pq"),
}
DEFAULTS: dict[str, Any] = {"population": 0, "alternate_names": [], "admin1_code": None}
OPTIONAL = st.sets(st.sampled_from(sorted(DEFAULTS)))


class Model(RuleBasedStateMachine):
    """What a dictionary of cities would answer."""

    http: httpx.Client

    def __init__(self) -> None:
        super().__init__()
        database.run("TRUNCATE cities CASCADE")
        self.cities: dict[int, dict[str, Any]] = {}
        self.tags: dict[int, str] = {}

    def written(self, response: httpx.Response, geonameid: int) -> None:
        document = response.json()
        assert document.items() >= self.cities[geonameid].items()
        self.tags[geonameid] = response.headers["etag"]

    @rule(geonameid=IDS, fields=st.fixed_dictionaries(FIELDS))
    def create(self, geonameid: int, fields: dict[str, Any]) -> None:
        response = self.http.post(CITIES, json=city(geonameid, **fields))
        if geonameid in self.cities:
            refused(response, 409)
        else:
            assert response.status_code == 201
            self.cities[geonameid] = {"geonameid": geonameid, "version": 1, **fields}
            self.written(response, geonameid)

    @rule(geonameid=IDS, fields=st.fixed_dictionaries(FIELDS), left_out=OPTIONAL)
    def replace(self, geonameid: int, fields: dict[str, Any], left_out: set[str]) -> None:
        body = {name: value for name, value in fields.items() if name not in left_out}
        response = self.http.put(f"{CITIES}/{geonameid}", json=without_key(city(geonameid) | body))
        self.change(response, geonameid, DEFAULTS | body)

    @rule(geonameid=IDS, fields=st.fixed_dictionaries({}, optional=FIELDS), cleared=OPTIONAL)
    def patch(self, geonameid: int, fields: dict[str, Any], cleared: set[str]) -> None:
        body = fields | dict.fromkeys(cleared)
        response = self.http.patch(f"{CITIES}/{geonameid}", json=body)
        self.change(response, geonameid, fields | {name: DEFAULTS[name] for name in cleared})

    def change(self, response: httpx.Response, geonameid: int, values: dict[str, Any]) -> None:
        if geonameid not in self.cities:
            refused(response, 404)
            return
        assert response.status_code == 200
        before = self.cities[geonameid]
        changed = before | values != before
        self.cities[geonameid] = before | values | {"version": before["version"] + changed}
        assert (response.headers["etag"] != self.tags[geonameid]) == changed
        self.written(response, geonameid)

    @rule(geonameid=IDS, stale=st.booleans())
    def delete(self, geonameid: int, stale: bool) -> None:
        tag = '"0-0"' if stale else self.tags.get(geonameid, "*")
        response = self.http.delete(f"{CITIES}/{geonameid}", headers={"If-Match": tag})
        if geonameid not in self.cities:
            refused(response, 404)
        elif stale:
            refused(response, 412)
        else:
            assert response.status_code == 204
            del self.cities[geonameid], self.tags[geonameid]

    @rule(
        country=st.none() | st.sampled_from(["DE", "FR"]),
        least=st.none() | st.integers(0, 3),
        sort=st.sampled_from(["geonameid", "name", "population"]),
        descending=st.booleans(),
        limit=st.integers(1, 4),
    )
    def page_through(
        self, country: str | None, least: int | None, sort: str, descending: bool, limit: int
    ) -> None:
        expected = sorted(
            (
                city
                for city in self.cities.values()
                if country in {None, city["country_code"]} and city["population"] >= (least or 0)
            ),
            key=lambda city: (city[sort], city["geonameid"]),
            reverse=descending,
        )
        query: dict[str, Any] = {"sort": f"-{sort}" if descending else sort, "limit": limit, "total": True}
        query |= {} if country is None else {"country": country}
        query |= {} if least is None else {"min_population": least}
        listed: list[int] = []
        cursor: dict[str, str] = {}
        while True:
            page = self.http.get(CITIES, params=query | cursor).json()
            listed += [city["geonameid"] for city in page["items"]]
            assert page["total"] == len(expected)
            if page["cursor"] is None:
                break
            assert len(page["items"]) == limit
            assert len(listed) <= len(expected)
            cursor = {"cursor": page["cursor"]}
        assert listed == [city["geonameid"] for city in expected]

    def teardown(self) -> None:
        for geonameid, fields in self.cities.items():
            response = self.http.get(f"{CITIES}/{geonameid}")
            assert response.json().items() >= fields.items()
            assert response.headers["etag"] == self.tags[geonameid]


def test_the_api_does_what_a_dictionary_does(http: httpx.Client) -> None:
    machine = type("Bound", (Model,), {"http": http})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=12, stateful_step_count=15, deadline=None, derandomize=True)
    )
