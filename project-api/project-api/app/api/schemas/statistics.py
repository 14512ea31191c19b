"""A country's statistics, as clients see them.

What belongs here: that model.
"""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class Statistics(BaseModel):
    """What a country's cities add up to, at the moment `computed_at`."""

    model_config = ConfigDict(from_attributes=True)

    country_code: str = Field(description="ISO 3166-1 alpha-2", examples=["FR"])
    cities: int = Field(description="how many there are")
    population: int = Field(description="sum of the cities' populations")
    largest_city: int | None = Field(
        description="id of the one with the largest population; null without cities, or when it was just deleted"
    )
    refreshes: int = Field(description="how often this was computed")
    computed_at: datetime
