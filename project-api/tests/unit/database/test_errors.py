"""What a client is told when its write breaks a constraint."""

from sqlalchemy import ForeignKeyConstraint, Table, UniqueConstraint

from app.database.errors import ADVICE
from project_database.errors import AlreadyExists, ConstraintViolated, ParentMissing, StillReferenced
from project_database.tables import Base, Versioned


def breakable(table: Table) -> set[tuple[type[ConstraintViolated], object]]:
    """What a write to a table can break. Its checks are not among that: the API's models refuse such values."""
    own: set[tuple[type[ConstraintViolated], object]] = {
        (AlreadyExists, one.name) for one in table.constraints if isinstance(one, UniqueConstraint)
    }
    if table.autoincrement_column is None:
        own.add((AlreadyExists, table.primary_key.name))
    for other in Base.metadata.tables.values():
        for key in other.constraints:
            if isinstance(key, ForeignKeyConstraint):
                if other is table:
                    own.add((ParentMissing, key.name))
                if key.referred_table is table and key.ondelete not in {"CASCADE", "SET NULL"}:
                    own.add((StillReferenced, key.name))
    return own


def test_each_constraint_that_a_client_can_break_has_its_sentence() -> None:
    tables = [Base.metadata.tables[model.__tablename__] for model in Versioned.__subclasses__()]  # type: ignore[attr-defined]  # each is a table
    assert len(tables) >= 2
    assert set(ADVICE) == set().union(*map(breakable, tables))
