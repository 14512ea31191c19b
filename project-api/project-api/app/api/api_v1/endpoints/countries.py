"""Countries: asked for and written.

How it works: each request is one transaction (`app.api.transactions`). A write locks its row, compares If-Match,
and writes.

What belongs here: endpoints under `/v1/countries`.
"""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Query, Response

from app.api.answers import answer, answer_row
from app.api.deps import DatabaseDep, SessionDep, require_json
from app.api.etags import NOT_MODIFIED, IfMatchDep, IfNoneMatch, check_if_match, etag, parse_entity_tags, tagged
from app.api.idempotency import get_key
from app.api.merge_patch import MEDIA_TYPE, changes, require_merge_patch
from app.api.problems import documented
from app.api.schemas.countries import Country, CountryFields, CountryPatch, CountryQuery, NewCountry
from app.api.schemas.pages import Digits, Page
from app.api.transactions import Transactional
from app.database.countries import Countries, CountryEditor
from app.database.session import Session
from project_contracts.places import GeonameId

router = APIRouter(prefix="/countries", tags=["countries"], route_class=Transactional)

CountryId = Annotated[GeonameId, Digits, Path(description="the country's id at GeoNames")]


@router.get("", response_model=Page[Country], responses=documented(400, 422, 503))
async def list_countries(database: DatabaseDep, query: Annotated[CountryQuery, Query()]) -> Response:
    """Countries, page by page: filtered, searched, sorted.

    A page goes on behind the last country of the page before: follow `cursor` with the same query until it is
    null. A search finds names that are similar.
    """
    countries, wanted = Countries(database), query.wanted()
    page = await countries.get_page(wanted, sort=query.order, limit=query.limit, cursor=query.cursor)
    total = await countries.count(wanted) if query.total else None
    return answer({"items": page.rows, "cursor": page.cursor, "total": total})


@router.post(
    "",
    status_code=201,
    dependencies=[Depends(require_json), Depends(get_key)],
    responses=documented(400, 409, 413, 415, 422, 503) | tagged(201, "Location"),
)
async def create_country(country: NewCountry, session: SessionDep, response: Response) -> Country:
    """Create a country, under its id at GeoNames. 409 if that, or one of its ISO codes, is taken."""
    created = await CountryEditor(session).add(country.model_dump())
    response.headers["Location"] = f"/v1/countries/{created.geonameid}"
    response.headers["ETag"] = etag(created.version, created.created_at)
    return Country.model_validate(created)


@router.get(
    "/{geonameid}",
    response_model=Country,
    responses=documented(400, 404, 422, 503) | tagged(200) | NOT_MODIFIED,
)
async def get_country(geonameid: CountryId, database: DatabaseDep, if_none_match: IfNoneMatch = None) -> Response:
    """A country."""
    known = parse_entity_tags("If-None-Match", if_none_match)
    return answer_row(await Countries(database).get_one(geonameid), known)


@router.put(
    "/{geonameid}",
    dependencies=[Depends(require_json)],
    responses=documented(400, 404, 409, 412, 413, 415, 422, 503) | tagged(200),
)
async def replace_country(
    geonameid: CountryId, country: CountryFields, session: SessionDep, if_match: IfMatchDep, response: Response
) -> Country:
    """Replace all of a country but its id. What is left out becomes its default; one that is not there is 404.

    Its code changes while it has no cities, else 409.
    """
    return await _write(geonameid, country.model_dump(), session, if_match, response)


@router.patch(
    "/{geonameid}",
    dependencies=[Depends(require_merge_patch)],
    responses=documented(400, 404, 409, 412, 413, 415, 422, 503) | tagged(200),
)
async def patch_country(
    geonameid: CountryId,
    patch: Annotated[CountryPatch, Body(media_type=MEDIA_TYPE)],
    session: SessionDep,
    if_match: IfMatchDep,
    response: Response,
) -> Country:
    """Change some fields of a country (RFC 7396; `application/json` is taken as well).

    null clears a field that need not be given, and is refused for the others. `{}`, and values that the country
    has already, change nothing: version and ETag stay. Its code changes while it has no cities, else 409.
    """
    return await _write(geonameid, changes(patch, CountryFields), session, if_match, response)


@router.delete("/{geonameid}", status_code=204, responses=documented(400, 404, 409, 412, 422, 503))
async def delete_country(geonameid: CountryId, session: SessionDep, if_match: IfMatchDep) -> None:
    """Delete a country. 409 while it has cities."""
    editor = CountryEditor(session)
    country = await editor.lock(geonameid)
    check_if_match(if_match, country, "country", geonameid)
    await editor.delete(country)


async def _write(
    geonameid: int, values: dict[str, object], session: Session, if_match: IfMatchDep, response: Response
) -> Country:
    editor = CountryEditor(session)
    country = await editor.lock(geonameid)
    check_if_match(if_match, country, "country", geonameid)
    await editor.change(country, values)
    response.headers["ETag"] = etag(country.version, country.created_at)
    return Country.model_validate(country)
