"""Cities: asked for, written, and found near a place.

How it works: each request is one transaction (`app.api.transactions`). A write locks its row, compares If-Match,
writes, and leaves a message in the outbox: the statistics of the city's country are computed anew once the
transaction is committed, and not at all if it is not.

What belongs here: endpoints under `/v1/cities`.
"""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Query, Response
from pydantic import Field

from app.api.answers import answer, answer_row
from app.api.deps import ClientDep, DatabaseDep, SessionDep, require_json
from app.api.etags import NOT_MODIFIED, IfMatchDep, IfNoneMatch, check_if_match, etag, parse_entity_tags, tagged
from app.api.idempotency import get_key
from app.api.merge_patch import MEDIA_TYPE, changes, require_merge_patch
from app.api.problems import documented
from app.api.schemas.cities import City, CityFields, CityPatch, CityQuery, NearCity, NewCity
from app.api.schemas.pages import Digits, Page
from app.api.transactions import Transactional
from app.database.cities import Cities, CityEditor
from app.database.outbox import Outbox
from app.database.session import Session
from async_celery import AsyncCelery
from project_contracts.countries import COUNTRY_STATISTICS, CountryStatisticsPayload
from project_contracts.places import GeonameId, Latitude, Longitude

router = APIRouter(prefix="/cities", tags=["cities"], route_class=Transactional)

CityId = Annotated[GeonameId, Digits, Path(description="the city's id at GeoNames")]
HowMany = Annotated[int, Field(ge=1, le=100), Digits, Query(description="how many cities")]


@router.get("", response_model=Page[City], responses=documented(400, 422, 503))
async def list_cities(database: DatabaseDep, query: Annotated[CityQuery, Query()]) -> Response:
    """Cities, page by page: filtered, searched, sorted.

    A page goes on behind the last city of the page before: follow `cursor` with the same query until it is null.
    A search finds names that are similar, and alternate names that are the same but for accents and case.
    """
    cities, wanted = Cities(database), query.wanted()
    page = await cities.get_page(wanted, sort=query.order, limit=query.limit, cursor=query.cursor)
    total = await cities.count(wanted) if query.total else None
    return answer({"items": page.rows, "cursor": page.cursor, "total": total})


@router.post(
    "",
    status_code=201,
    dependencies=[Depends(require_json), Depends(get_key)],
    responses=documented(400, 409, 413, 415, 422, 503) | tagged(201, "Location"),
)
async def create_city(city: NewCity, session: SessionDep, client: ClientDep, response: Response) -> City:
    """Create a city, under its id at GeoNames. 409 if that is taken, or if there is no such country."""
    created = await CityEditor(session).add(city.model_dump())
    await _compute_statistics(session, client, created.country_code)
    response.headers["Location"] = f"/v1/cities/{created.geonameid}"
    response.headers["ETag"] = etag(created.version, created.created_at)
    return City.model_validate(created)


@router.get("/nearest", responses=documented(422, 503))
async def list_cities_near_a_point(
    database: DatabaseDep,
    latitude: Annotated[Latitude, Query()],
    longitude: Annotated[Longitude, Query()],
    limit: HowMany = 10,
) -> list[NearCity]:
    """The cities nearest to a point, the nearest first."""
    nearest = await Cities(database).get_nearest(latitude, longitude, limit=limit)
    return [NearCity.model_validate(near) for near in nearest]


@router.get(
    "/{geonameid}",
    response_model=City,
    responses=documented(400, 404, 422, 503) | tagged(200) | NOT_MODIFIED,
)
async def get_city(geonameid: CityId, database: DatabaseDep, if_none_match: IfNoneMatch = None) -> Response:
    """A city."""
    known = parse_entity_tags("If-None-Match", if_none_match)
    return answer_row(await Cities(database).get_one(geonameid), known)


@router.get("/{geonameid}/nearest", responses=documented(404, 422, 503))
async def list_cities_near_a_city(
    geonameid: CityId, database: DatabaseDep, limit: HowMany = 10
) -> list[NearCity]:
    """The cities nearest to a city, the nearest first; itself is left out."""
    cities = Cities(database)
    city = await cities.get_one(geonameid)
    nearest = await cities.get_nearest(city["latitude"], city["longitude"], limit=limit, but=geonameid)
    return [NearCity.model_validate(near) for near in nearest]


@router.put(
    "/{geonameid}",
    dependencies=[Depends(require_json)],
    responses=documented(400, 404, 409, 412, 413, 415, 422, 503) | tagged(200),
)
async def replace_city(
    geonameid: CityId,
    city: CityFields,
    session: SessionDep,
    client: ClientDep,
    if_match: IfMatchDep,
    response: Response,
) -> City:
    """Replace all of a city but its id. What is left out becomes its default; a city that is not there is 404."""
    return await _write(geonameid, city.model_dump(), session, client, if_match, response)


@router.patch(
    "/{geonameid}",
    dependencies=[Depends(require_merge_patch)],
    responses=documented(400, 404, 409, 412, 413, 415, 422, 503) | tagged(200),
)
async def patch_city(
    geonameid: CityId,
    patch: Annotated[CityPatch, Body(media_type=MEDIA_TYPE)],
    session: SessionDep,
    client: ClientDep,
    if_match: IfMatchDep,
    response: Response,
) -> City:
    """Change some fields of a city (RFC 7396; `application/json` is taken as well).

    null clears a field that need not be given, and is refused for the others. `{}`, and values that the city has
    already, change nothing: version and ETag stay.
    """
    return await _write(geonameid, changes(patch, CityFields), session, client, if_match, response)


@router.delete("/{geonameid}", status_code=204, responses=documented(400, 404, 409, 412, 422, 503))
async def delete_city(geonameid: CityId, session: SessionDep, client: ClientDep, if_match: IfMatchDep) -> None:
    """Delete a city."""
    editor = CityEditor(session)
    city = await editor.lock(geonameid)
    check_if_match(if_match, city, "city", geonameid)
    await editor.delete(city)
    await _compute_statistics(session, client, city.country_code)


async def _write(
    geonameid: int,
    values: dict[str, object],
    session: Session,
    client: AsyncCelery,
    if_match: IfMatchDep,
    response: Response,
) -> City:
    editor = CityEditor(session)
    city = await editor.lock(geonameid)
    check_if_match(if_match, city, "city", geonameid)
    country_before = city.country_code
    if await editor.change(city, values):
        await _compute_statistics(session, client, country_before, city.country_code)
    response.headers["ETag"] = etag(city.version, city.created_at)
    return City.model_validate(city)


async def _compute_statistics(session: Session, client: AsyncCelery, *country_codes: str) -> None:
    """Have the statistics of these countries computed once this transaction is committed."""
    for code in sorted(set(country_codes)):
        payload = CountryStatisticsPayload(country_code=code)
        await Outbox(session).add(client.new_task_id(), COUNTRY_STATISTICS, payload)
