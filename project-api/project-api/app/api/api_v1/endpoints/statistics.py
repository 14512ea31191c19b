"""What a country's cities add up to.

How it works: whoever writes a city leaves a message in the outbox, in the same transaction; the worker then
computes the country's statistics anew. Here they are only read: they are as old as `computed_at` says, for a
moment after a write as well.

What belongs here: endpoints under `/v1/countries/{geonameid}/statistics`.
"""

from fastapi import APIRouter

from app.api.api_v1.endpoints.countries import CountryId
from app.api.deps import SessionDep
from app.api.problems import documented
from app.api.schemas.statistics import Statistics
from app.api.transactions import Transactional
from app.database import statistics

router = APIRouter(prefix="/countries/{geonameid}/statistics", tags=["countries"], route_class=Transactional)


@router.get("", responses=documented(404, 422, 503))
async def get_country_statistics(geonameid: CountryId, session: SessionDep) -> Statistics:
    """A country's statistics; 404 until they have been computed once."""
    found = await statistics.Statistics(session).get_one(geonameid)
    return Statistics.model_validate(found)
