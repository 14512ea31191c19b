"""What countries' cities add up to.

How it works: a refresh first locks the countries it is about, so that two of the same country take turns, and
then computes and stores in one statement, which sees all that was committed before it began. It waits for a
largest city that is being deleted before it writes, as the deletion takes its locks in that order: no deadlock.
The deletion has its own refresh coming.

What belongs here: the table `country_statistics`.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from project_database.tables import City, Country, CountryStatistics


class UnknownCountry(LookupError):  # noqa: N818  # the name that clients read
    """There is no such country (any more), and so no statistics of it."""

    code = "unknown_country"


class Statistics:
    """Countries' statistics, as one transaction sees them."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get_one(self, country_code: str) -> CountryStatistics:
        """Return a country's statistics as they were computed last.

        Raises:
            UnknownCountry: there are none, so there is no such country.
        """
        found = await self._session.get(CountryStatistics, country_code)
        if found is None:
            raise UnknownCountry(f"there is no country {country_code}: it was deleted, its statistics with it")
        return found

    async def refresh(self, country_codes: Collection[str]) -> None:
        """Compute countries' statistics anew; nothing happens for one that does not exist."""
        await self._refresh(Country.code.in_(country_codes))

    async def refresh_all(self) -> None:
        """Compute every country's statistics anew."""
        await self._refresh(true())

    async def _refresh(self, wanted: ColumnElement[bool]) -> None:
        # A lock that leaves the countries' cities alone: their foreign key takes a weaker one.
        locked = select(Country.code).where(wanted).order_by(Country.code).with_for_update(key_share=True)
        codes: Sequence[str] = (await self._session.scalars(locked)).all()
        totals = (
            select(
                Country.code,
                func.count(City.geonameid).label("cities"),
                func.coalesce(func.sum(City.population), 0).label("population"),
            )
            .outerjoin(City, City.country_code == Country.code)
            .where(Country.code.in_(codes))
            .group_by(Country.code)
            .cte("totals")
        )
        # What "Sort by population" of the API lists first.
        largest = (
            select(City.geonameid)
            .where(City.country_code == totals.c.code)
            .order_by(City.population.desc(), City.geonameid.desc())
            .limit(1)
            .with_for_update(read=True, key_share=True)
            .lateral("largest")
        )
        computed = insert(CountryStatistics).from_select(
            ["country_code", "cities", "population", "largest_city", "computed_at"],
            select(
                totals.c.code,
                totals.c.cities,
                totals.c.population,
                largest.c.geonameid,
                func.statement_timestamp(),
            )
            .select_from(totals.outerjoin(largest, true()))
            .order_by(totals.c.code),
        )
        new = computed.excluded
        await self._session.execute(
            computed.on_conflict_do_update(
                index_elements=[CountryStatistics.country_code],
                set_={
                    "cities": new.cities,
                    "population": new.population,
                    "largest_city": new.largest_city,
                    "refreshes": CountryStatistics.refreshes + 1,
                    "computed_at": new.computed_at,
                },
            )
        )
