"""Places for tests, with the fields that a test does not care about filled in."""

from typing import Any

from worker.domain.geography import City


def city(geonameid: int = 1, **fields: Any) -> City:
    """Make a city in France; `fields` replace what matters."""
    somewhere = City(
        geonameid=geonameid,
        name=f"City {geonameid}",
        country="FR",
        population=1000,
        latitude=0.0,
        longitude=0.0,
        timezone="Europe/Paris",
        has_capital_name=False,
    )
    return somewhere._replace(**fields)
