"""Imports: a file in, rows staged, the workflow sent; what is wrong with a file is said, and keeps no row out.

What the worker makes of the rows is tested in project-worker, both together in e2e.
`worker_app` only counts them.
"""

import json
import os
import time
import uuid
from collections.abc import Iterable
from typing import Any

import database
import httpx
import pytest
from processes import Worker, wait_until
from test_bad_input import assert_problem
from worker_app import SLOW_PART

from async_celery.task_ids import TaskIds
from project_contracts.imports import ROWS_PER_PART

IMPORTS = "/v1/imports"
CSV = {"Content-Type": "text/csv"}
TSV = {"Content-Type": "text/tab-separated-values; charset=UTF-8"}
HEADER = "geonameid,name,country_code,latitude,longitude,timezone"
PARIS = '2988507,"Paris, ville",FR,48.85341,2.3488,Europe/Paris'
LYON = "2996944,Lyon,FR,45.74846,4.84671,Europe/Paris"
NOTHING = {"read": 0, "inserted": 0, "updated": 0, "unchanged": 0, "rejected": 0}


pytestmark = pytest.mark.usefixtures("clean_tables")


def lines(*rows: str) -> bytes:
    return "\n".join(rows).encode()


def upload(client: httpx.Client, file: bytes | Iterable[bytes], headers: dict[str, str] = CSV) -> str:
    answer = client.post(IMPORTS, content=file, headers=headers)
    assert answer.status_code == 202, answer.text
    import_id: str = answer.json()["id"]
    assert answer.json() == {"id": import_id, "status": "QUEUED"}
    assert answer.headers["location"] == f"{IMPORTS}/{import_id}"
    return import_id


def read(client: httpx.Client, import_id: str) -> dict[str, Any]:
    answer = client.get(f"{IMPORTS}/{import_id}")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    assert document["status"] != "SUCCESS" or document["result"] is not None
    return document


def ended(client: httpx.Client, import_id: str) -> dict[str, Any]:
    document: dict[str, Any] = {}

    def has_ended() -> bool:
        nonlocal document
        document = read(client, import_id)
        return document["status"] in ("SUCCESS", "FAILURE", "REVOKED")

    wait_until(has_ended, 20, "the import ends")
    return document


def imports() -> int:
    rows: int = database.run("SELECT count(*) FROM imports")[0][0]
    return rows


def test_a_file_is_imported_and_what_is_wrong_with_it_is_said(client: httpx.Client, worker: Worker) -> None:
    bad = [
        b"1,caf\xe9,FR,0,0,Europe/Paris",
        b"2,too short,FR",
        b'3,"open,FR,0,0,Europe/Paris',
        b"4,nul\0,FR,0,0,Europe/Paris",
        b"x" * 10_000_000,
    ]
    with worker.standing_still():
        import_id = upload(client, b"\r\n".join([HEADER.encode(), PARIS.encode(), b"", *bad, LYON.encode()]))
        document = read(client, import_id)
        assert document["status"] == "QUEUED"
        assert document["rows"] == {"staged": 7, "processed": 0}
        assert document["counts"] == NOTHING
        assert document["rejected"]["total"] == 5
    document = ended(client, import_id)

    assert document["status"] == "SUCCESS"
    assert document["source"] == "upload"
    assert document["rows"] == {"staged": 7, "processed": 7}
    assert document["counts"] == NOTHING | {"read": 7, "inserted": 2, "rejected": 5}
    assert document["result"] == {"cities": document["counts"], "countries": None}
    assert document["countries"] is None
    assert document["created_at"] <= document["finished_at"]
    assert client.get(document["task"]).json()["status"] == "SUCCESS"

    rejected = document["rejected"]
    assert (rejected["total"], rejected["cursor"]) == (5, None)
    found = {row["line"]: row["reason"] for row in rejected["items"]}
    reasons = (
        "byte 6 (0xE9) is not UTF-8",
        "has 3 fields, the header has 6",
        "a quote is not closed",
        "NUL",
        "longer",
    )
    assert list(found) == [4, 5, 6, 7, 8]
    for reason, expected in zip(found.values(), reasons, strict=True):
        assert expected in reason
    assert database.run("SELECT columns FROM imports")[0]["columns"] == HEADER.split(",")
    rows = database.run(
        "SELECT position, line, key, fields FROM import_rows WHERE error IS NULL ORDER BY position"
    )
    assert [tuple(row) for row in rows] == [
        (0, 2, 2988507, ["2988507", "Paris, ville", "FR", "48.85341", "2.3488", "Europe/Paris"]),
        (6, 9, 2996944, LYON.split(",")),
    ]


def test_a_file_may_be_separated_by_tabs(client: httpx.Client) -> None:
    import_id = upload(client, HEADER.replace(",", "\t").encode() + b'\nx\t"a\t5"\t\t\t\xc3\xa9', TSV)
    assert ended(client, import_id)["counts"] == NOTHING | {"read": 1, "inserted": 1}
    (row,) = database.run("SELECT line, key, fields FROM import_rows")
    assert tuple(row) == (2, None, ["x", '"a', '5"', "", "", "é"])


def test_no_encoding_may_be_named(client: httpx.Client) -> None:
    upload(client, lines(HEADER), CSV | {"Content-Encoding": "Identity"})


def test_a_file_without_rows_is_an_import_of_nothing(client: httpx.Client) -> None:
    document = ended(client, upload(client, lines(HEADER)))
    assert document["status"] == "SUCCESS"
    assert document["result"] == {"cities": NOTHING, "countries": None}
    assert document["rows"] == {"staged": 0, "processed": 0}


def test_geonames_is_staged_by_the_worker(client: httpx.Client, worker: Worker) -> None:
    with worker.standing_still():
        answer = client.post(IMPORTS, json={"source": "geonames"})
        assert answer.status_code == 202, answer.text
        document = read(client, answer.json()["id"])
        assert document["status"] == "QUEUED"
        assert document["source"] == "geonames"
        assert document["rows"] == {"staged": None, "processed": 0}
        children = client.get(document["task"]).json()["children"]
        assert children[0]["name"] == "project-worker.stage_geonames"
        assert client.delete(document["task"]).json()["status"] == "REVOKED"
        assert read(client, document["id"])["status"] == "REVOKED"


def test_rejected_rows_are_read_page_by_page(client: httpx.Client) -> None:
    import_id = upload(client, lines(HEADER, *["x"] * 250))
    first = ended(client, import_id)["rejected"]
    assert first["total"] == 250
    assert [row["line"] for row in first["items"]] == list(range(2, 102))
    found, cursor = first["items"], first["cursor"]
    while cursor is not None:
        page = client.get(f"{IMPORTS}/{import_id}/rejected", params={"cursor": cursor, "limit": 70}).json()
        assert len(page["items"]) <= 70
        found += page["items"]
        cursor = page["cursor"]
    assert [row["line"] for row in found] == list(range(2, 252))
    assert {row["reason"] for row in found} == {"has 1 fields, the header has 6"}

    other = upload(client, lines(HEADER))
    url = f"{IMPORTS}/{other}/rejected"
    assert client.get(url).json() == {"items": [], "cursor": None, "total": 0}
    assert_problem(client.get(url, params={"cursor": first["cursor"]}), 400)
    assert_problem(client.get(url, params={"cursor": "x"}), 400)
    assert_problem(client.get(url, params={"limit": 1001}), 422)


def test_a_cancelled_import_keeps_what_was_done(client: httpx.Client) -> None:
    parts = SLOW_PART + 1
    rows = (parts - 1) * ROWS_PER_PART + 1
    # No country: a part of rejected rows is a quick one.
    import_id = upload(
        client, lines(HEADER, *(f"{number},x,XX,0,0,Europe/Paris" for number in range(1, rows + 1)))
    )
    done = rows * (parts - 1) // parts
    wait_until(lambda: read(client, import_id)["rows"]["processed"] == done, 20, "the other parts are done")
    assert client.delete(f"/v1/tasks/{import_id}").status_code in (200, 202)
    document = ended(client, import_id)
    assert document["status"] == "REVOKED"
    assert document["rows"] == {"staged": rows, "processed": done}
    assert document["counts"] == NOTHING | {"read": done, "inserted": done}
    assert document["result"] is None
    assert document["finished_at"] is None


def test_two_imports_of_one_file_are_two(client: httpx.Client) -> None:
    file = lines(HEADER, PARIS, LYON)
    both = [upload(client, file), upload(client, file)]
    assert len(set(both)) == 2
    assert [ended(client, import_id)["counts"]["read"] for import_id in both] == [2, 2]


def test_an_import_repeated_under_its_key_is_one(client: httpx.Client) -> None:
    key = CSV | {"Idempotency-Key": str(uuid.uuid4())}
    file = lines(HEADER, PARIS, LYON)
    answers = [client.post(IMPORTS, content=file, headers=key) for _ in range(2)]
    first = answers[0].json()["id"]
    ended(client, first)
    assert upload(client, file, key) == first
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true"]
    assert_problem(client.post(IMPORTS, content=file + b"\n", headers=key), 422)
    assert_problem(client.post(IMPORTS, content=file, headers=key | TSV), 422)
    assert imports() == 1
    assert database.run("SELECT DISTINCT import_id::text FROM import_rows")[0][0] == first


def test_an_import_is_known_for_longer_than_its_workflow(client: httpx.Client) -> None:
    finished, lost = uuid.uuid4(), uuid.uuid4()
    result = f'{{"cities": {json.dumps(NOTHING)}, "countries": null}}'
    database.run(
        "INSERT INTO imports (id, source, staged, result, finished_at) VALUES"
        " ($1, 'upload', 0, $3, now()), ($2, 'upload', 0, NULL, NULL)",
        finished,
        lost,
        result,
    )
    assert read(client, str(finished))["status"] == "SUCCESS"
    answer = client.get(f"{IMPORTS}/{lost}")
    assert_problem(answer, 404)
    assert answer.json()["title"] == "Unknown task"


@pytest.mark.parametrize("path", ["", "/rejected"])
def test_an_import_that_has_expired_is_gone(client: httpx.Client, path: str) -> None:
    ids = TaskIds(os.environ["TASK_ID_KEY"].encode())
    expired = ids.new(time.time() - 2 * 3600)
    answer = client.get(f"{IMPORTS}/{expired}{path}")
    assert_problem(answer, 410)
    assert answer.json()["title"] == client.get(f"/v1/tasks/{expired}").json()["title"] == "Task expired"
    assert_problem(client.get(f"{IMPORTS}/{ids.new()}{path}"), 404)


def test_rejected_rows_are_not_counted_one_by_one(client: httpx.Client) -> None:
    """There may be millions of them."""
    import_id = upload(client, lines(HEADER, "x"))
    ended(client, import_id)
    database.run("UPDATE imports SET rejected = 3000000")
    assert read(client, import_id)["rejected"]["total"] == 3_000_000
    assert client.get(f"{IMPORTS}/{import_id}/rejected").json()["total"] == 3_000_000


@pytest.mark.parametrize(
    ("headers", "body", "status", "detail"),
    [
        (CSV, b"", 422, "the file is empty"),
        (CSV, b"geonameid,name\n1,Paris", 422, "missing: 'country_code', 'latitude', 'longitude', 'timezone'"),
        (CSV, f"{HEADER},mayor".encode(), 422, "unknown: 'mayor'"),
        (CSV, f"{HEADER},name".encode(), 422, "named twice: 'name'"),
        (CSV, HEADER.encode("utf-16"), 422, "save the file as UTF-8"),
        (CSV, b"x" * 10_000_000, 422, "longer than 65536 bytes"),
        (TSV, HEADER.encode(), 422, "separated by tabs"),
        ({"Content-Type": "text/csv; charset=iso-8859-1"}, HEADER.encode(), 415, "'iso-8859-1'"),
        ({"Content-Type": 'text/csv; charset*0="a"; charset*="b"'}, HEADER.encode(), 415, "charset"),
        ({"Content-Type": f'text/csv; charset*{"1" * 5000}="a"'}, HEADER.encode(), 415, "charset"),
        ({"Content-Type": "text/csv; charset*=a%00''b"}, HEADER.encode(), 415, "charset"),
        (CSV | {"Content-Encoding": "gzip"}, b"\x1f\x8b", 415, "Content-Encoding"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, HEADER.encode(), 415, "text/csv"),
        ({}, HEADER.encode(), 415, "text/csv"),
        ({"Content-Type": "application/json"}, b'{"source": "moon"}', 422, "body.source"),
        ({"Content-Type": "application/json"}, b'{"source": "geonames", "x": 1}', 422, "body.x"),
        ({"Content-Type": "application/json"}, b"[]", 422, "body"),
        ({"Content-Type": "application/json"}, b'{"source":', 400, "body"),
        ({"Content-Type": "application/json"}, b"\xff", 400, "body"),
        ({"Content-Type": "application/json"}, b" " * 300_000, 413, "larger than 262144 bytes"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    client: httpx.Client, headers: dict[str, str], body: bytes, status: int, detail: str
) -> None:
    answer = client.post(IMPORTS, content=body, headers=headers)
    assert_problem(answer, status)
    assert detail in answer.json()["detail"]
    assert imports() == 0


@pytest.mark.parametrize("import_id", ["0", "x", "00000000-0000-0000-0000-000000000000"])
@pytest.mark.parametrize("path", ["", "/rejected"])
def test_an_unknown_import_is_not_found(client: httpx.Client, import_id: str, path: str) -> None:
    assert_problem(client.get(f"{IMPORTS}/{import_id}{path}"), 404 if "-" in import_id else 422)


def test_openapi_offers_a_source_and_a_file(client: httpx.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"][IMPORTS]["post"]
    content = operation["requestBody"]["content"]
    assert content["application/json"]["schema"]["properties"]["source"]["const"] == "geonames"
    for kind in ("text/csv", "text/tab-separated-values"):
        assert content[kind]["schema"] == {"type": "string", "contentMediaType": kind}
    assert {"202", "400", "408", "409", "413", "415", "422", "503"} <= set(operation["responses"])
    assert "Location" in operation["responses"]["202"]["headers"]
