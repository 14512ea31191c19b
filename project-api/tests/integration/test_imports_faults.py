"""Uploads that do not arrive, are too many or too much: nothing of them is kept, and the next one is accepted.

| fault | promise |
|---|---|
| the API is killed in the middle of an upload | no 202; nothing staged; a retry is accepted |
| the client leaves | nothing staged; the connection to PostgreSQL is free again |
| nothing comes any more, or too slowly | 408; the same |
| more uploads than there may be | 503 + Retry-After; then they are accepted |
| more bytes than there may be, declared or not | 413; nothing staged |
| refused before all of it has come | the connection is closed, the rest is not read |
| RabbitMQ is away, or sending fails in any other way | 503 or what it is; what was staged is deleted |
| many times as many rows | the same memory |
"""

import asyncio
import contextlib
import re
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import database
import httpx
import pytest
from fastapi import Request, Response
from processes import Api, running_api, wait_until
from starlette.types import Message
from test_bad_input import assert_problem
from test_imports import CSV, HEADER, IMPORTS, LYON, imports, lines, read, upload
from test_raw_http import read_responses

from app.api.api_v1.endpoints.imports import create_import
from app.api.uploads import Uploads
from app.celery.async_celery import create_celery
from app.core.config import Settings
from app.core.idempotency import Fingerprint
from app.database.session import open_database
from project_database.sessions import NOBODY

pytestmark = pytest.mark.usefixtures("clean_tables")

MANY = lines(HEADER, *[LYON] * 12_000)  # more than are staged at once
LIMIT = 1_000_000  # bytes


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API that takes one upload at a time, which must be quick and small."""
    log = tmp_path_factory.mktemp("strict") / "log"
    limits = {
        "MAX_UPLOADS": "1",
        "UPLOAD_IDLE_SECONDS": "1",
        "UPLOAD_SECONDS": "2",
        "MAX_IMPORT_BYTES": str(LIMIT),
    }
    with running_api(log, **limits) as running:
        yield running
    assert "Traceback" not in log.read_text()


@contextlib.contextmanager
def half_an_upload(port: int) -> Iterator[socket.socket]:
    """Begin an upload; yield when rows of it have been staged."""
    head = f"POST {IMPORTS} HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: {LIMIT}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.encode() + MANY)
        wait_until(lambda: transactions() == 1, 10, "rows are being staged")
        yield connection


def transactions() -> int:
    """How many transactions in which something was written are open."""
    open_ones: int = database.run(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
    )[0][0]
    return open_ones


def assert_nothing_is_kept() -> None:
    wait_until(lambda: transactions() == 0, 10, "the transaction has ended")
    assert imports() == 0
    assert database.run("SELECT count(*) FROM import_rows")[0][0] == 0


def assert_the_next_one_is_accepted(url: str) -> None:
    with httpx.Client(base_url=url, timeout=20) as client:
        assert read(client, upload(client, MANY))["rows"]["staged"] == 12_000


def test_an_api_that_is_killed_leaves_nothing(api: Api, tmp_path: Path) -> None:
    with running_api(tmp_path / "log") as doomed, half_an_upload(doomed.port) as connection:
        assert imports() == 0
        doomed.process.kill()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(65536) == b""
        assert_nothing_is_kept()
    assert_the_next_one_is_accepted(api.url)


def test_a_client_that_leaves_leaves_nothing(strict: Api) -> None:
    with half_an_upload(strict.port):
        pass
    assert_nothing_is_kept()
    assert_the_next_one_is_accepted(strict.url)


def test_an_upload_that_stalls_is_given_up(strict: Api) -> None:
    with half_an_upload(strict.port) as connection:
        begun = time.monotonic()
        [(status, body)] = read_responses(connection)
        assert time.monotonic() - begun < 5
    assert status == 408
    assert b"nothing came for 1 s" in body
    assert_nothing_is_kept()


def test_an_upload_that_trickles_is_given_up(strict: Api) -> None:
    with half_an_upload(strict.port) as connection:
        connection.settimeout(0.2)  # s between two bytes
        for _ in range(50):
            connection.sendall(b"x")
            try:
                head = connection.recv(65536, socket.MSG_PEEK)
                break
            except TimeoutError:
                continue
        else:
            pytest.fail("it went on for 10 s")
        connection.settimeout(10)
        [(status, body)] = read_responses(connection)
    assert status == 408
    assert b"it takes longer than 2 s" in body  # and not for a pause: there was none of a second
    assert re.search(rb"\r\nconnection: close\r\n", head, re.IGNORECASE)
    assert_nothing_is_kept()


def test_there_are_no_more_uploads_than_allowed(strict: Api) -> None:
    with half_an_upload(strict.port):
        refused = httpx.post(strict.url + IMPORTS, content=MANY, headers=CSV)
        assert_problem(refused, 503)
        assert int(refused.headers["retry-after"]) > 0
        assert httpx.post(strict.url + IMPORTS, json={"source": "moon"}).status_code == 422
    assert_nothing_is_kept()
    assert_the_next_one_is_accepted(strict.url)


@pytest.mark.parametrize("is_declared", [True, False])
def test_more_than_allowed_is_refused(strict: Api, is_declared: bool) -> None:
    piece = lines(LYON, "") * 2000
    rest = (piece for _ in range(LIMIT // len(piece) + 1))
    file = b"".join([lines(HEADER, ""), *rest])
    answer = httpx.post(strict.url + IMPORTS, content=file if is_declared else iter([file]), headers=CSV)
    assert_problem(answer, 413)
    assert f"larger than {LIMIT} bytes" in answer.json()["detail"]
    assert_nothing_is_kept()
    assert_the_next_one_is_accepted(strict.url)


@pytest.mark.parametrize("body", [MANY, b'{"source": "geonames"}'])
def test_what_was_staged_for_nobody_is_deleted(cut_off: Api, body: bytes) -> None:
    headers = {"Content-Type": "application/json"} if body.startswith(b"{") else CSV
    answer = httpx.post(cut_off.url + IMPORTS, content=body, headers=headers, timeout=20)
    assert_problem(answer, 503)
    assert answer.headers["retry-after"]
    assert_nothing_is_kept()


@pytest.mark.parametrize(
    "kind", ["text/plain", "text/csv; charset=latin-1", "text/csv\r\nContent-Encoding: gzip", "text/csv"]
)
def test_the_rest_of_what_is_refused_is_not_read(api: Api, kind: str) -> None:
    head = f"POST {IMPORTS} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {LIMIT}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        connection.sendall(head.encode() + b"no header\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert re.match(rb"HTTP/1\.1 4(15|22) ", answer)
    assert re.search(rb"\r\nconnection: close\r\n", answer, re.IGNORECASE)


def test_a_body_that_was_read_leaves_the_connection_open(api: Api) -> None:
    with httpx.Client(base_url=api.url, timeout=10) as client:
        assert "connection" not in client.post(IMPORTS, json={"source": "moon"}).headers


@pytest.mark.parametrize("error", [asyncio.CancelledError, RuntimeError])
async def test_whatever_keeps_it_from_being_sent(error: type[BaseException]) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": lines(HEADER, LYON), "more_body": False}

    async def send_workflow(*_: object, **__: object) -> None:
        (staged,) = await database.fetch("SELECT count(*) FROM import_rows")
        assert staged[0] == 1
        raise error

    request = Request({"type": "http", "headers": [(b"content-type", b"text/csv")]}, receive)
    settings = Settings()
    celery = create_celery(settings)
    fingerprint = Fingerprint("POST", IMPORTS)
    producer = SimpleNamespace(new_task_id=lambda: str(uuid.uuid4()))
    upload: Any = SimpleNamespace(
        producer=producer, celery=celery, fingerprint=fingerprint, send_workflow=send_workflow
    )
    async with open_database(settings, NOBODY) as opened:
        resources: Any = SimpleNamespace(uploads=Uploads(settings), database=opened)
        with pytest.raises(error):
            await create_import(request, Response(), resources, upload)
    assert [row[0] for row in await database.fetch("SELECT count(*) FROM imports")] == [0]
    assert [row[0] for row in await database.fetch("SELECT count(*) FROM import_rows")] == [0]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(process: int) -> float:
        """The most memory that a process has had, in MiB."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        assert found
        return int(found[1]) / 1024

    row = f'2996944,"Lyon, {"n" * 300}",FR,45.74846,4.84671,Europe/Paris'
    with running_api(tmp_path / "log") as api, httpx.Client(base_url=api.url, timeout=60) as client:
        peaks = []
        for rows in (4000, 30_000):
            import_id = upload(client, lines(HEADER, *[row] * rows))
            peaks.append(peak(api.process.pid))
            client.delete(f"/v1/tasks/{import_id}")
    print(f"an import of 1.4 MB: at most {peaks[0]:.1f} MiB; of 10 MB: {peaks[1] - peaks[0]:+.1f} MiB")
    assert peaks[1] - peaks[0] < 12
