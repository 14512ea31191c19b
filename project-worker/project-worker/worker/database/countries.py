"""Countries, as an import needs them: loaded as a whole, and there while their cities are loaded.

What belongs here: the worker's queries on `countries`.
"""

from collections.abc import Sequence

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from project_contracts.imports import ImportCounts
from project_database.errors import AlreadyExists, StillReferenced, TransactionConflict
from project_database.tables import City, Country
from worker.database.merging import Merge
from worker.domain.geonames_rows import CountryRow


class Countries:
    """Countries, as one transaction sees them."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def keep_codes(self) -> frozenset[str]:
        """Return the codes of all countries, none of which is deleted until this transaction ends.

        Of all, though rows may name a few: rows are read in batches, and countries locked batch by batch would be
        locked in any order, the way to a deadlock.
        """
        codes = select(Country.code).order_by(Country.code).with_for_update(read=True, key_share=True)
        return frozenset((await self._session.scalars(codes)).all())

    async def merge(self, countries: Sequence[CountryRow]) -> ImportCounts:
        """Insert or update countries.

        One whose code a client has given to another country is rejected, and one that has cities under another
        code of a client's.

        Raises:
            TransactionConflict: a client has done so at this moment, and the next run sees it.
        """
        has_cities = exists().where(City.country_code == Country.code)
        stored = (
            await self._session.execute(select(Country.geonameid, Country.code, Country.code3, has_cities))
        ).all()
        owners = {code: key for key, *codes, _ in stored for code in codes}
        fixed = {key: code for key, code, _, in_use in stored if in_use}
        free = [
            country
            for country in countries
            if {owners.get(code) for code in (country.code, country.code3)} <= {None, country.geonameid}
            and fixed.get(country.geonameid, country.code) == country.code
        ]
        merge = Merge(self._session, Country, CountryRow._fields)
        await merge.begin()
        await merge.add(free)
        try:
            return await merge.merge(read=len(countries), accepted=len(free))
        except (AlreadyExists, StillReferenced) as error:
            raise TransactionConflict("a country was written meanwhile; load the countries again") from error
