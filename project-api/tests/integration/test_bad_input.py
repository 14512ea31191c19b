"""Bad input over a real socket: a clear problem document, never a 5xx."""

import uuid

import httpx
import pytest

MULTIPLY = "/v1/project-worker/integer-multiplication"
SUM = "/v1/project-worker/integers-sum"
JSON = {"Content-Type": "application/json"}


def assert_problem(response: httpx.Response, *statuses: int) -> None:
    assert response.status_code in statuses, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["title"]
    assert problem["detail"]
    assert problem["requestId"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "null",
        '""',
        '"abc"',
        "1e3",
        "1.0",
        "true",
        '"1"',
        '" 5 "',
        "9007199254740992",
        "NaN",
        "Infinity",
        "[]",
        "{}",
    ],
)
def test_an_integer_is_an_integer(client: httpx.Client, value: str) -> None:
    body = f'{{"multiplicand": {value}, "multiplier": 1}}' if value else '{"multiplier": 1}'
    response = client.post(MULTIPLY, content=body, headers=JSON)
    assert_problem(response, 422)
    assert response.json()["errors"][0]["field"] == "body.multiplicand"


@pytest.mark.parametrize(
    "body",
    [
        b'{"multiplicand": 1, "multiplier": ' + b"9" * 4301 + b"}",
        b'{"multiplicand": 0x10}',
        b'{"multiplicand": 1_000}',
        b'{"multiplicand": 1,',
        b"\xff\xfe",
        b'{"multiplicand": "\xff"}',
        b"[" * 200_000,
    ],
)
def test_malformed_json_is_400(client: httpx.Client, body: bytes) -> None:
    assert_problem(client.post(MULTIPLY, content=body, headers=JSON), 400)


@pytest.mark.parametrize(
    "body",
    [
        b'{"multiplicand": 1, "multiplier": 2, "extra": 3}',
        b'{"multiplicand": 1, "multiplier": 2, "\\ud800": 3}',
        b'{"multiplicand": "\\ud800", "multiplier": 2}',
        b"[]",
        b"null",
        b"",
    ],
)
def test_a_wrong_shape_is_422(client: httpx.Client, body: bytes) -> None:
    assert_problem(client.post(MULTIPLY, content=body, headers=JSON), 422)


@pytest.mark.parametrize("count", [0, 1001])
def test_a_sum_has_1_to_1000_integers(client: httpx.Client, count: int) -> None:
    assert_problem(client.post(SUM, json={"integers": [1] * count}), 422)


@pytest.mark.parametrize("workflow", ["chain", "group", "chord"])
@pytest.mark.parametrize("n", [0, -1, 1001, 10**9])
def test_a_workflow_has_1_to_1000_tasks(client: httpx.Client, workflow: str, n: int) -> None:
    assert_problem(client.post(f"/v1/workflows/{workflow}", json={"integer": 2, "n": n}), 422)


def test_a_chain_whose_result_would_be_too_long_is_refused(client: httpx.Client) -> None:
    response = client.post("/v1/workflows/chain", json={"integer": 2**53 - 1, "n": 1000})
    assert_problem(response, 422)
    assert "digits" in response.json()["detail"]


def test_the_body_limit_counts_bytes(client: httpx.Client) -> None:
    body = b'{"integers": [' + b" " * 300 * 1024 + b"1]}"
    assert_problem(client.post(SUM, content=body, headers=JSON), 413)
    pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))
    chunked = client.post(SUM, content=pieces, headers=JSON)
    assert "content-length" not in chunked.request.headers
    assert_problem(chunked, 413)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "application/x-www-form-urlencoded", None]
)
def test_a_body_must_be_declared_as_json(client: httpx.Client, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = client.post(MULTIPLY, content=b'{"multiplicand":1,"multiplier":2}', headers=headers)
    assert_problem(response, 415)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "//v1/tasks", 404),
        ("GET", "/v1/tasks/%00", 422),
        ("GET", "/v1/..%2f..%2fetc/passwd", 404),
        ("DELETE", MULTIPLY, 405),
        ("GET", MULTIPLY, 405),
    ],
)
def test_odd_paths_and_methods(client: httpx.Client, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert_problem(response, status)
    assert status != 405 or response.headers["allow"] == "POST"


def test_allow_lists_every_method_of_the_path(client: httpx.Client) -> None:
    response = client.put(f"/v1/tasks/{uuid.uuid4()}")
    assert_problem(response, 405)
    assert response.headers["allow"] == "DELETE, GET"


def test_an_odd_prefer_is_ignored(client: httpx.Client) -> None:
    response = client.post(
        MULTIPLY, json={"multiplicand": 6, "multiplier": 7}, headers={"Prefer": "wait=abc, ;;,=,"}
    )
    assert (response.status_code, response.json()["result"]) == (200, 42)


@pytest.mark.parametrize("request_id", ["short-id_1.x", "x" * 128])
def test_a_good_request_id_is_kept(client: httpx.Client, request_id: str) -> None:
    response = client.get("/health/live", headers={"X-Request-ID": request_id})
    assert response.headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a b", "é"])
def test_an_odd_request_id_is_replaced(client: httpx.Client, request_id: str) -> None:
    response = client.get("/health/live", headers={b"X-Request-ID": request_id.encode()})
    assert response.headers["x-request-id"] != request_id
    assert len(response.headers["x-request-id"]) == 32
