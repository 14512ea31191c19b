"""Countries, as clients see and send them.

What belongs here: those models. What a field may hold that cities have as well stands in
`project_contracts.places`.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from app.api.schemas.pages import Digits, ListQuery
from project_contracts.places import CountryCode, GeonameId, Name, Population

STRICT = ConfigDict(strict=True, extra="forbid")

Continent = Literal["AF", "AN", "AS", "EU", "NA", "OC", "SA"]
Code3 = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 3166-1 alpha-3")]
NumericCode = Annotated[int, Field(ge=0, le=999, description="ISO 3166-1 numeric; 0 where there is none")]
Area = Annotated[float, Field(ge=0, allow_inf_nan=False, description="km²")]
CurrencyCode = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")]
CurrencyName = Annotated[str, Field(min_length=1, max_length=50, pattern=r"^[^\x00]+$")]
Phone = Annotated[str, Field(min_length=1, max_length=20, pattern=r"^[^\x00]+$", description="calling code")]
Tld = Annotated[str, Field(min_length=1, max_length=10, pattern=r"^[^\x00]+$", description="top-level domain")]
Language = Annotated[str, Field(min_length=1, max_length=20, pattern=r"^[^\x00]+$")]
Languages = Annotated[list[Language], Field(max_length=100, description="language tags, the most spoken first")]
Neighbours = Annotated[list[CountryCode], Field(max_length=100)]


class CountryFields(BaseModel):
    """All of a country that clients write, but for its key."""

    model_config = STRICT

    code: CountryCode = Field(examples=["DE"])
    code3: Code3 = Field(examples=["DEU"])
    numeric_code: NumericCode = Field(examples=[276])
    name: Name = Field(examples=["Germany"])
    capital: Name | None = Field(default=None, examples=["Berlin"])
    continent: Continent = Field(examples=["EU"])
    population: Population = Field(default=0, examples=[82927922])
    area_km2: Area = Field(default=0, examples=[357021])
    currency_code: CurrencyCode | None = Field(default=None, examples=["EUR"])
    currency_name: CurrencyName | None = Field(default=None, examples=["Euro"])
    phone: Phone | None = Field(default=None, examples=["49"])
    tld: Tld | None = Field(default=None, examples=[".de"])
    languages: Languages = Field(default=[], examples=[["de"]])
    neighbours: Neighbours = Field(default=[], examples=[["CH", "PL"]])


class NewCountry(CountryFields):
    """A country to be created, under the id that GeoNames knows it by."""

    geonameid: GeonameId = Field(examples=[2921044])


@with_config(STRICT)
class CountryPatch(TypedDict, total=False):
    """What changes of a country; null clears a field that need not be given."""

    code: CountryCode
    code3: Code3
    numeric_code: NumericCode
    name: Name
    capital: Name | None
    continent: Continent
    population: Population | None
    area_km2: Area | None
    currency_code: CurrencyCode | None
    currency_name: CurrencyName | None
    phone: Phone | None
    tld: Tld | None
    languages: Languages | None
    neighbours: Neighbours | None


class Country(BaseModel):
    """A country as it is stored."""

    model_config = ConfigDict(from_attributes=True)

    geonameid: int
    code: str
    code3: str
    numeric_code: int
    name: str
    capital: str | None
    continent: str
    population: int
    area_km2: float
    currency_code: str | None
    currency_name: str | None
    phone: str | None
    tld: str | None
    languages: list[str]
    neighbours: list[str]
    version: int = Field(description="counts the changes")
    created_at: datetime
    updated_at: datetime


class CountryQuery(ListQuery):
    """Which countries."""

    code: CountryCode | None = Field(default=None, description="only this one (ISO 3166-1 alpha-2)")
    continent: Continent | None = Field(default=None, description="only those of a continent")
    min_population: Annotated[Population, Digits] | None = Field(
        default=None, description="so many people, or more"
    )
    max_population: Annotated[Population, Digits] | None = Field(
        default=None, description="so many people, or fewer"
    )
