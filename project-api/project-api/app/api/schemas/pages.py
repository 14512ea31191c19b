"""Lists: a page, and what is the same in the query of each list.

What belongs here: models that no single list owns.
"""

import unicodedata
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

T = TypeVar("T")

Cursor = Annotated[str, WithJsonSchema({"type": "string"})]
"""Where a page ended. What is none is refused when it is used (400), not by its type (422): it is opaque."""


def _only_digits(value: object) -> object:
    # int() takes more: 1_0, 10.0, spaces, the digits of other scripts.
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("send decimal digits only")
    return value


Digits = BeforeValidator(_only_digits)
"""For an integer in a path or a query: one spelling is enough for each. It stands behind the integer's bounds, or
the documentation would lack them."""


_WORDS_ARE_MADE_OF = {"Lu", "Ll", "Lt", "Lo", "Nd"}
"""Unicode's categories of letters and decimal digits."""


def _has_a_word(text: str) -> str:
    # What has no trigram would be looked for in every row. pg_trgm makes them of letters and digits, and knows
    # neither ² nor ʼ (a modifier letter) for one.
    if not any(unicodedata.category(character) in _WORDS_ARE_MADE_OF for character in text):
        raise ValueError("search for something with a letter or a digit")
    return text


Searched = Annotated[
    str,
    Field(
        min_length=1,
        max_length=250,
        pattern=r"^[^\x00]+$",
        description="a name, roughly: accents, case and typos do not matter",
        examples=["munchen"],
    ),
    AfterValidator(_has_a_word),
]

SortKey = Literal["geonameid", "-geonameid", "name", "-name", "population", "-population", "relevance"]


class Page(BaseModel, Generic[T]):
    """Some rows of a list."""

    items: list[T]
    cursor: Cursor | None = Field(description="asks for the next page, with the same query; null at the end")
    total: int | None = Field(description="rows of all pages; null unless asked for with `total=true`")


class ListQuery(BaseModel):
    """What every list can be asked; its subclasses add filters."""

    model_config = ConfigDict(extra="forbid")

    q: Searched | None = None
    sort: SortKey | None = Field(
        default=None,
        description="`-` for descending; relevance with `q` only. By default relevance with `q`, else geonameid",
    )
    limit: Annotated[int, Field(ge=1, le=100), Digits] = Field(default=50, description="rows on a page")
    cursor: Cursor | None = Field(default=None, description="the `cursor` of the page before")
    total: bool = Field(default=False, description="count the rows of all pages, which takes time on long lists")

    @model_validator(mode="after")
    def _relevance_is_that_of_a_search(self) -> Self:
        if self.sort == "relevance" and self.q is None:
            raise ValueError("sort=relevance needs q, what is searched for")
        return self

    @property
    def order(self) -> str:
        """The sort that was asked for, or the default."""
        return self.sort or ("relevance" if self.q is not None else "geonameid")

    def wanted(self) -> dict[str, Any]:
        """Return the filters that were given, and `q`."""
        return self.model_dump(exclude_none=True, exclude={"sort", "limit", "cursor", "total"})
