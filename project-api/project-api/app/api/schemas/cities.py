"""Cities, as clients see and send them.

What belongs here: those models. What a field may hold stands in `project_contracts.places`.
"""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from app.api.schemas.pages import Digits, ListQuery
from project_contracts.places import (
    Admin1Code,
    AlternateNames,
    CountryCode,
    GeonameId,
    Latitude,
    Longitude,
    Name,
    Population,
    Timezone,
)

STRICT = ConfigDict(strict=True, extra="forbid")


class CityFields(BaseModel):
    """All of a city that clients write, but for its key."""

    model_config = STRICT

    name: Name = Field(examples=["Munich"])
    alternate_names: AlternateNames = Field(default=[], examples=[["München", "Monaco di Baviera"]])
    country_code: CountryCode = Field(examples=["DE"])
    admin1_code: Admin1Code | None = Field(default=None, examples=["02"])
    latitude: Latitude = Field(examples=[48.13743])
    longitude: Longitude = Field(examples=[11.57549])
    population: Population = Field(default=0, examples=[1260391])
    timezone: Timezone = Field(examples=["Europe/Berlin"])


class NewCity(CityFields):
    """A city to be created, under the id that GeoNames knows it by."""

    geonameid: GeonameId = Field(examples=[2867714])


@with_config(STRICT)
class CityPatch(TypedDict, total=False):
    """What changes of a city; null clears a field that need not be given."""

    name: Name
    alternate_names: AlternateNames | None
    country_code: CountryCode
    admin1_code: Admin1Code | None
    latitude: Latitude
    longitude: Longitude
    population: Population | None
    timezone: Timezone


class City(BaseModel):
    """A city as it is stored."""

    model_config = ConfigDict(from_attributes=True)

    geonameid: int
    name: str
    alternate_names: list[str]
    country_code: str
    admin1_code: str | None
    latitude: float = Field(description="degrees north")
    longitude: float = Field(description="degrees east")
    population: int
    timezone: str = Field(description="name in the IANA database")
    version: int = Field(description="counts the changes")
    created_at: datetime
    updated_at: datetime


class NearCity(BaseModel):
    """A city, and how far away it is."""

    model_config = ConfigDict(from_attributes=True)

    distance: float = Field(description="km, along a great circle of a sphere of the Earth's mean radius")
    city: City


class CityQuery(ListQuery):
    """Which cities."""

    country: CountryCode | None = Field(default=None, description="only those of a country (ISO 3166-1 alpha-2)")
    timezone: Timezone | None = Field(default=None, description="only those of a time zone (IANA)")
    min_population: Annotated[Population, Digits] | None = Field(
        default=None, description="so many people, or more"
    )
    max_population: Annotated[Population, Digits] | None = Field(
        default=None, description="so many people, or fewer"
    )
