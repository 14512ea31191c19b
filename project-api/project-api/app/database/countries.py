"""The countries: what is asked and written.

What belongs here: the queries on `countries`.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete

from app.database.editing import Editor
from app.database.rows import Rows
from project_database.tables import Country, CountryStatistics


class CountryEditor(Editor[Country]):
    """Changes countries, in one transaction."""

    entity = "country"
    table = Country

    async def change(self, row: Country, values: Mapping[str, Any]) -> bool:
        """Write the values that differ, as `Editor.change`. Its code changes while it has no cities."""
        if values.get("code", row.code) != row.code:
            # They may count a city that is gone since: who is to compute them anew knows the old code only.
            await self._session.execute(
                delete(CountryStatistics).where(CountryStatistics.country_code == row.code)
            )
        return await super().change(row, values)


class Countries(Rows):
    """The countries, as they are read."""

    entity = "country"
    table = Country
    filters = {  # noqa: RUF012  # never changed
        "code": lambda code: Country.code == code,
        "continent": lambda code: Country.continent == code,
        "min_population": lambda least: Country.population >= least,
        "max_population": lambda most: Country.population <= most,
    }
