"""RFC 7396: what is named changes, null clears; and the models of a patch agree with those of the whole."""

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.api.merge_patch import changes
from app.api.schemas.cities import City, CityFields, CityPatch, CityQuery
from app.api.schemas.countries import Country, CountryFields, CountryPatch, CountryQuery
from app.api.schemas.pages import ListQuery
from app.database.cities import Cities
from app.database.countries import Countries
from app.database.rows import RELEVANCE, SORTS, Rows


def test_what_is_named_is_set_and_null_clears() -> None:
    patch = {"name": "Paris", "population": None, "alternate_names": None, "admin1_code": None}
    assert changes(patch, CityFields) == {
        "name": "Paris",
        "population": 0,
        "alternate_names": [],
        "admin1_code": None,
    }
    assert changes({}, CityFields) == {}


def test_a_list_is_replaced_as_a_whole() -> None:
    assert changes({"alternate_names": ["b"]}, CityFields) == {"alternate_names": ["b"]}


def test_a_cleared_list_is_nobody_elses() -> None:
    first, second = (changes({"alternate_names": None}, CityFields)["alternate_names"] for _ in range(2))
    assert first is not second


@pytest.mark.parametrize(("patch", "whole"), [(CityPatch, CityFields), (CountryPatch, CountryFields)])
def test_a_patch_takes_what_the_whole_takes(patch: Any, whole: type[BaseModel]) -> None:
    adapter = TypeAdapter[Any](patch)
    assert set(patch.__annotations__) == set(whole.model_fields)
    for name, field in whole.model_fields.items():
        for value in (field.examples or [])[:1]:
            assert adapter.validate_python({name: value}) == {name: value}
        if field.is_required():
            with pytest.raises(ValidationError):
                adapter.validate_python({name: None})
        else:
            assert adapter.validate_python({name: None}) == {name: None}
    with pytest.raises(ValidationError):
        adapter.validate_python({"geonameid": 1})


@pytest.mark.parametrize(
    ("shown", "whole", "query", "rows"),
    [(City, CityFields, CityQuery, Cities), (Country, CountryFields, CountryQuery, Countries)],
)
def test_models_and_repositories_agree(
    shown: type[BaseModel], whole: type[BaseModel], query: type[ListQuery], rows: type[Rows]
) -> None:
    assert set(shown.model_fields) == {*whole.model_fields, "geonameid", "version", "created_at", "updated_at"}
    assert set(rows.filters) == set(query.model_fields) - set(ListQuery.model_fields)
    allowed = ListQuery.model_json_schema()["properties"]["sort"]["anyOf"][0]["enum"]
    assert set(allowed) == {*SORTS, *(f"-{name}" for name in SORTS), RELEVANCE}
