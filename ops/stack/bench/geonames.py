"""GeoNames in PostgreSQL: the rows that are imported, read and written.

How it works: a contender writes the files (benchmarks/contenders/postgres/geonames.py); psql copies them.

What belongs here: getting rows into a database before a row of the benchmark begins.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stack.bench.contenders import PSQL
from stack.bench.lab import Lab

_COUNTRIES = "geonameid, code, code3, numeric_code, name, continent"
_HEADER = "geonameid,name,country_code,latitude,longitude,timezone"
_SYNTHETIC = "{number},Synthetic place {number},FR,{latitude:.5f},{longitude:.5f},Europe/Paris"


@dataclass(frozen=True, kw_only=True)
class Files:
    """Cities as CSV, for the API (`upload`) and for psql (`copy`), and the countries that they refer to."""

    folder: Path
    count: int

    @property
    def countries(self) -> Path:
        """For psql."""
        return self.folder / "countries.csv"

    @property
    def upload(self) -> Path:
        """For `POST /v1/imports`."""
        return self.folder / "upload.csv"

    @property
    def copy(self) -> Path:
        """For psql."""
        return self.folder / "copy.csv"

    @property
    def columns(self) -> str:
        """The cities' columns, in the order of both files."""
        with self.copy.open() as file:
            return file.readline().strip()


@contextmanager
def files(lab: Lab, count: int) -> Iterator[Files]:
    """Write the files; they are deleted at the end.

    Args:
        lab: Whose contender writes them.
        count: How many cities, evenly out of all; 0 for all.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        written = lab.ask(PSQL, "geonames", folder=folder, count=count)["count"]
        yield Files(folder=Path(folder), count=written)


def add_countries(lab: Lab, database: str, found: Files) -> None:
    """Copy the countries."""
    lab.database.ask(rf"\copy countries ({_COUNTRIES}) FROM '{found.countries}' CSV HEADER", database)


def add_cities(lab: Lab, database: str, found: Files) -> None:
    """Copy the cities, and let PostgreSQL know what it has."""
    copy = rf"\copy cities ({found.columns}) FROM '{found.copy}' CSV HEADER"
    lab.database.ask(f"{copy}\nVACUUM ANALYZE cities;", database)


def write_synthetic(path: Path, count: int) -> None:
    """Write `count` cities that do not exist, for `POST /v1/imports`, all over the map."""
    with path.open("w") as file:
        file.write(_HEADER + "\n")
        for number in range(1, count + 1):
            latitude, longitude = number * 7 % 18000 / 100 - 90, number * 11 % 36000 / 100 - 180
            file.write(_SYNTHETIC.format(number=number, latitude=latitude, longitude=longitude) + "\n")


def add_synthetic(lab: Lab, database: str, count: int) -> None:
    """Insert `count` cities that do not exist, in five countries, with many equal populations, all over the map.

    The indexes are those of the product; they are made anew behind the rows, which takes a third of the time.
    """
    codes = "ARRAY['FR', 'DE', 'IT', 'JP', 'US']"
    others = "FROM pg_indexes WHERE tablename = 'cities' AND indexname NOT LIKE 'pk%'"
    drops = lab.database.ask("SELECT 'DROP INDEX ' || indexname || ';' " + others, database)
    makes = lab.database.ask("SELECT indexdef || ';' " + others, database)
    lab.database.ask(
        f"""
        INSERT INTO countries (geonameid, code, code3, numeric_code, name, continent)
        SELECT n, code, code || 'X', n, code, 'EU' FROM unnest({codes}) WITH ORDINALITY AS listed (code, n);
        {drops}
        INSERT INTO cities (geonameid, name, country_code, latitude, longitude, population, timezone)
        SELECT n, 'Place ' || md5(n::text), ({codes})[1 + n % 5],
               n * 7 % 18000 / 100.0 - 90, n * 11 % 36000 / 100.0 - 180, n::bigint * 7919 % 50000, 'UTC'
        FROM generate_series(1, {count}) AS n;
        SET maintenance_work_mem = '256MB';
        {makes}
        VACUUM ANALYZE cities;
        """,  # noqa: S608 (a number, and what PostgreSQL itself has said)
        database,
    )
