"""Draws the tables: writes docs/reference/database.md, which `test_diagram.py` compares with them.

How it works: a Mermaid diagram of `Base.metadata`, which GitHub shows as a picture, and each table's docstring.

What belongs here: that page, all of it: it is never edited by hand.
"""

from pathlib import Path

from sqlalchemy import Column, Dialect, ForeignKeyConstraint, Table
from sqlalchemy.dialects import postgresql

from project_database.tables import Base

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "database.md"
COMMAND = ".stack/venvs/project-api/bin/python libs/project-database/tests/diagram.py"

_POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it so

_HEAD = f"""# The database

Tables, keys and references, as `libs/project-database/src/project_database/tables.py` declares them and
`project-api/project-api/migrations` makes them. Indexes and checks stand there, each with its reason.

A test fails when this page is out of date. It is written, after `./stack up`, by:

```
{COMMAND}
```
"""


def draw() -> str:
    """Return the page."""
    tables = list(Base.metadata.sorted_tables)
    drawing = [line for table in tables for line in _entity(table)]
    drawing += [_reference(key) for table in tables for key in _foreign_keys(table)]
    diagram = "\n".join(("```mermaid", "erDiagram", *(f"    {line}" for line in drawing), "```"))
    rows = {mapper.local_table: mapper.class_.__doc__ or "" for mapper in Base.registry.mappers}
    described = [f"| `{table.name}` | {' '.join(rows[table].split())} |" for table in tables]
    return "\n".join((_HEAD, diagram, "", "| table | a row is |", "|---|---|", *described, ""))


def _entity(table: Table) -> list[str]:
    return [f"{table.name} {{", *(f"    {_attribute(column)}" for column in table.columns), "}"]


def _attribute(column: "Column[object]") -> str:
    kind = column.type.compile(_POSTGRESQL).lower()
    kind = kind.replace("timestamp with time zone", "timestamptz").replace("double precision", "double")
    marks = {"PK": column.primary_key, "FK": bool(column.foreign_keys), "UK": bool(column.unique)}
    words = [kind, column.name, ",".join(mark for mark, applies in marks.items() if applies)]
    if column.nullable:
        words.append('"may be null"')
    return " ".join(word for word in words if word)


def _foreign_keys(table: Table) -> list[ForeignKeyConstraint]:
    keys = [key for key in table.constraints if isinstance(key, ForeignKeyConstraint)]
    return sorted(keys, key=lambda key: tuple(key.column_keys))


def _reference(key: ForeignKeyConstraint) -> str:
    (column,) = key.columns
    parent = "|o" if column.nullable else "||"
    child = "o|" if list(key.table.primary_key.columns) == [column] else "o{"
    return f"{key.referred_table.name} {parent}--{child} {key.table.name} : {column.name}"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(draw())
