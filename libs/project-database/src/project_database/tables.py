"""The tables, one class each: the schema as SQLAlchemy sees it.

How it works: Alembic compares these classes with the database (`alembic check`), so a column is added here and by
a migration, or the tests fail. Relationships are not declared: a repository names its joins. Extensions and
functions that indexes use are made by the first migration (`project-api/project-api/migrations/versions`).

What belongs here: tables, their constraints, and an index for every filter and sort that the API offers, each
with its reason.
"""

import uuid
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    Connection,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Text,
    Uuid,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, CHAR, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from project_database import functions

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
"""Names of constraints and indexes: the same on every machine, so that migrations can name them."""


class Base(DeclarativeBase):
    """What all tables have in common."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar = {
        datetime: DateTime(timezone=True),
        uuid.UUID: Uuid(),
        dict[str, Any]: JSONB(),
    }


@event.listens_for(Base.metadata, "before_create")
def _functions_come_first(_metadata: MetaData, connection: Connection, **_: object) -> None:
    functions.install(connection)


class Versioned:
    """Columns of rows that clients edit: `version` counts their changes and is what an ETag shows."""

    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Country(Versioned, Base):
    """A country or territory of ISO 3166-1, dead ones included, as GeoNames lists them."""

    __tablename__ = "countries"

    geonameid: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    code: Mapped[str] = mapped_column(CHAR(2), unique=True)  # ISO 3166-1 alpha-2
    code3: Mapped[str] = mapped_column(CHAR(3), unique=True)  # ISO 3166-1 alpha-3
    numeric_code: Mapped[int] = mapped_column(SmallInteger)  # ISO 3166-1 numeric; 0 where there is none
    name: Mapped[str] = mapped_column(String(250))
    capital: Mapped[str | None] = mapped_column(String(250))
    continent: Mapped[str] = mapped_column(CHAR(2))
    population: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    area_km2: Mapped[float] = mapped_column(server_default=text("0"))
    currency_code: Mapped[str | None] = mapped_column(String(3))
    currency_name: Mapped[str | None] = mapped_column(String(50))
    phone: Mapped[str | None] = mapped_column(String(20))
    tld: Mapped[str | None] = mapped_column(String(10))
    languages: Mapped[list[str]] = mapped_column(ARRAY(String(20)), server_default=text("'{}'"))
    neighbours: Mapped[list[str]] = mapped_column(ARRAY(CHAR(2)), server_default=text("'{}'"))
    search_name: Mapped[str] = mapped_column(Text, Computed("search_form(name)", persisted=True), deferred=True)

    __table_args__ = (
        CheckConstraint("geonameid > 0", name="geonameid"),
        CheckConstraint("continent IN ('AF','AN','AS','EU','NA','OC','SA')", name="continent"),
        CheckConstraint("population >= 0", name="population"),
        CheckConstraint("area_km2 >= 0", name="area_km2"),
        # Sorts; the key makes each order total, which keyset pagination needs.
        Index(None, "name", "geonameid"),
        Index(None, "population", "geonameid"),
        # A filter.
        Index(None, "continent", "geonameid"),
        # Search: accents and case do not matter (`search_form`), typos hardly (trigrams).
        Index(
            "ix_countries_search_name",
            "search_name",
            postgresql_using="gin",
            postgresql_ops={"search_name": "gin_trgm_ops"},
        ),
    )


class City(Versioned, Base):
    """A populated place."""

    __tablename__ = "cities"

    geonameid: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(250))
    alternate_names: Mapped[list[str]] = mapped_column(ARRAY(String(250)), server_default=text("'{}'"))
    # A country keeps its code while it has cities: to rewrite them all would take longer than a request may.
    country_code: Mapped[str] = mapped_column(CHAR(2), ForeignKey("countries.code", ondelete="RESTRICT"))
    admin1_code: Mapped[str | None] = mapped_column(String(20))
    latitude: Mapped[float] = mapped_column()  # degrees north
    longitude: Mapped[float] = mapped_column()  # degrees east
    population: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    timezone: Mapped[str] = mapped_column(String(50))  # of the IANA database
    search_name: Mapped[str] = mapped_column(Text, Computed("search_form(name)", persisted=True), deferred=True)

    __table_args__ = (
        CheckConstraint("geonameid > 0", name="geonameid"),
        CheckConstraint("latitude BETWEEN -90 AND 90", name="latitude"),
        CheckConstraint("longitude BETWEEN -180 AND 180", name="longitude"),
        CheckConstraint("population >= 0", name="population"),
        # Sorts.
        Index(None, "name", "geonameid"),
        Index(None, "population", "geonameid"),
        # A country's cities, in each order.
        Index(None, "country_code", "geonameid"),
        Index(None, "country_code", "name", "geonameid"),
        Index(None, "country_code", "population", "geonameid"),
        # A time zone's cities, in each order.
        Index(None, "timezone", "geonameid"),
        Index(None, "timezone", "name", "geonameid"),
        Index(None, "timezone", "population", "geonameid"),
        # Search: as for countries; an alternate name counts when it is the same but for accents and case.
        Index(
            "ix_cities_search_name",
            "search_name",
            postgresql_using="gin",
            postgresql_ops={"search_name": "gin_trgm_ops"},
        ),
        Index("ix_cities_search_alternates", text("search_forms(alternate_names)"), postgresql_using="gin"),
        # Nearest cities: points on the unit sphere, whose distance grows with the great-circle distance.
        Index("ix_cities_position", text("unit_sphere(latitude, longitude)"), postgresql_using="gist"),
    )


class CountryStatistics(Base):
    """What the worker has computed from a country's cities; `refreshes` counts how often."""

    __tablename__ = "country_statistics"

    country_code: Mapped[str] = mapped_column(
        CHAR(2), ForeignKey("countries.code", onupdate="CASCADE", ondelete="CASCADE"), primary_key=True
    )
    cities: Mapped[int] = mapped_column(Integer)
    population: Mapped[int] = mapped_column(BigInteger)  # sum over the cities
    largest_city: Mapped[int | None] = mapped_column(ForeignKey("cities.geonameid", ondelete="SET NULL"))
    refreshes: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    computed_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index(None, "largest_city"),)  # what deleting a city looks up


class Import(Base):
    """One import of cities; its id is its workflow's. `staged` is how many rows wait, None while they come in.

    `rejected` is how many are rejected so far: what cannot be read, then what each part that is done has added.
    """

    __tablename__ = "imports"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(10))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    columns: Mapped[list[str] | None] = mapped_column(ARRAY(Text))  # the file's header
    staged: Mapped[int | None] = mapped_column(Integer)
    rejected: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    countries: Mapped[dict[str, Any] | None] = mapped_column()  # counts, where the source brings countries
    result: Mapped[dict[str, Any] | None] = mapped_column()  # counts over all rows, when it has ended
    finished_at: Mapped[datetime | None] = mapped_column()

    __table_args__ = (
        CheckConstraint("source IN ('geonames','upload')", name="source"),
        Index(None, "created_at"),  # housekeeping
    )


class ImportRow(Base):
    """One row of a file, staged: its fields as text, or why it is no row.

    `position` counts rows from 0, `line` is where it began in the file, from 1. `key` is its geonameid where the
    field is one: the first row of a key wins, the others are rejected. What was rejected stays, for the report.
    """

    __tablename__ = "import_rows"

    # No foreign key: its check per row takes longer than all the rest of staging. Whoever deletes an import
    # deletes its rows first.
    import_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    line: Mapped[int] = mapped_column(Integer)
    key: Mapped[int | None] = mapped_column(BigInteger)
    fields: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    error: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        # Which row of a key is the first; key first, so that no plan takes this index for a range of positions.
        Index(None, "key", "import_id", "position"),
        Index("ix_import_rows_rejected", "import_id", "position", postgresql_where=text("error IS NOT NULL")),
    )


class ImportPart(Base):
    """One part of an import that is done: written in the transaction of its rows, so it is done once."""

    __tablename__ = "import_parts"

    import_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("imports.id", ondelete="CASCADE"), primary_key=True)
    part: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    read: Mapped[int] = mapped_column(Integer)
    inserted: Mapped[int] = mapped_column(Integer)
    updated: Mapped[int] = mapped_column(Integer)
    unchanged: Mapped[int] = mapped_column(Integer)
    rejected: Mapped[int] = mapped_column(Integer)
    finished_at: Mapped[datetime] = mapped_column(server_default=func.now())


class OutboxMessage(Base):
    """A task to be sent because a transaction was committed; deleted when the broker has it; its id is `id`."""

    __tablename__ = "outbox"

    position: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(Text)
    queue: Mapped[str] = mapped_column(Text)
    kwargs: Mapped[dict[str, Any]] = mapped_column()
    headers: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    error: Mapped[str | None] = mapped_column(Text)  # why it can never be sent: it is set aside then


class InboxEntry(Base):
    """A task whose effect is in the database: written in the effect's transaction, so a second run has none."""

    __tablename__ = "inbox"

    task_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index(None, "created_at"),)  # housekeeping


class IdempotencyKey(Base):
    """The answer to a request that created something, for the client that sends it again under its key."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)  # SHA-256 of method, path and body
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[dict[str, Any]] = mapped_column()
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index(None, "created_at"),)  # housekeeping
