"""What repositories say when a row is not as the client thinks.

How it works: what can go wrong with PostgreSQL itself stands in `project_database.errors`. `app/api/problems.py`
turns both into HTTP. A constraint that a client's write breaks has a sentence in `ADVICE`.

What belongs here: exceptions of repositories, with their facts; what to do about a broken constraint.
"""

from project_database.errors import AlreadyExists, ConstraintViolated, ParentMissing, StillReferenced

ADVICE: dict[tuple[type[ConstraintViolated], str], str] = {
    (AlreadyExists, "pk_countries"): "a country with this geonameid exists: change that one",
    (AlreadyExists, "uq_countries_code"): "another country has this code",
    (AlreadyExists, "uq_countries_code3"): "another country has this code3",
    (AlreadyExists, "pk_cities"): "a city with this geonameid exists: change that one",
    (ParentMissing, "fk_cities_country_code"): "there is no country with this country_code: create it first",
    (StillReferenced, "fk_cities_country_code"): (
        "the country has cities: delete them, or move them to another country, first"
    ),
}
"""What to do when a client's write breaks a constraint, by what is wrong and the constraint's name."""


def advise(error: ConstraintViolated) -> str:
    """Return what the client can do; the error's own words where nothing better is known."""
    return ADVICE.get((type(error), error.constraint or ""), str(error))


class RowNotFound(Exception):  # noqa: N818  # a state, and the name is what is read in the log
    """There is no such row."""

    def __init__(self, entity: str, key: object) -> None:
        """Say which one.

        Args:
            entity: what it would be, as a client calls it: `city`.
            key: what it was looked up by.
        """
        super().__init__(f"there is no {entity} {key}")
        self.entity = entity
        self.key = key


class StaleVersion(Exception):  # noqa: N818
    """The row has changed since the client read it."""

    def __init__(self, entity: str, key: object, *, version: int) -> None:
        """Say which row, and its version now."""
        super().__init__(f"{entity} {key} has changed since you read it: read it again, then repeat your change")
        self.entity = entity
        self.key = key
        self.version = version
