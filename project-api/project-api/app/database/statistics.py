"""Countries' statistics: read here, computed by the worker.

What belongs here: the queries on `country_statistics`.
"""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.errors import RowNotFound
from project_database.tables import Country, CountryStatistics


class Statistics:
    """The statistics, as one transaction sees them."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get_one(self, geonameid: int) -> CountryStatistics:
        """Return a country's statistics as they were computed last.

        Raises:
            RowNotFound: they never were, or there is no such country.
        """
        found = await self._session.scalar(
            select(CountryStatistics)
            .join(Country, Country.code == CountryStatistics.country_code)
            .where(Country.geonameid == geonameid)
        )
        if found is None:
            raise RowNotFound("record of the statistics of country", geonameid)
        return found
