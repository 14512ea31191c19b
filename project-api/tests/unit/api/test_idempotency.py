"""The Idempotency-Key header: which values are keys, and what a request's fingerprint is made of."""

import re
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from app.api.idempotency import IdempotencyKeyHeader, get_key, parse_key, take_fingerprint
from app.core.idempotency import BadIdempotencyKeyError

UUID = "8e03978e-40d5-43e8-bc93-6894a57f9324"
DOCUMENTED = re.compile(TypeAdapter(IdempotencyKeyHeader).json_schema()["pattern"])


def request(
    path: str = "/v1/x", body: bytes = b"{}", query: bytes = b"", method: str = "POST", **headers: str
) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "server": ("localhost", 80),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    return Request(scope, receive)


@pytest.mark.parametrize(
    ("field", "key"),
    [
        (f'"{UUID}"', UUID),
        (UUID, UUID),
        (f' "{UUID}"\t', UUID),
        ('"with space"', "with space"),
        (r'"a \"quote\" and a \\"', 'a "quote" and a \\'),
        ("a:b/c=+", "a:b/c=+"),
        ("x" * 255, "x" * 255),
        ('"' + r"\"" * 255 + '"', '"' * 255),
    ],
)
async def test_a_key(field: str, key: str) -> None:
    assert parse_key([field]) == key
    assert await get_key(request(idempotency_key=field)) == key


@pytest.mark.parametrize(
    "field",
    [
        "", '""', " ", '"', '"a', 'a"', 'a"b', r'"a\b"', r'"a\"', "a b", "a,b", "a;b=1", '"a";b=1', '"a", "b"',
        "a\\", "a\tb", '"a\tb"', "\x00", "a\x7f", "a\r\nb", "a\n", "é", "x" * 256, f'"{"x" * 256}"',
    ],
)  # fmt: skip
def test_no_key(field: str) -> None:
    with pytest.raises(BadIdempotencyKeyError, match="UUID in double quotes"):
        parse_key([field])


async def test_a_key_is_optional_and_one() -> None:
    assert parse_key([]) is None
    assert await get_key(request()) is None
    with pytest.raises(BadIdempotencyKeyError, match="one"):
        parse_key(["a", "a"])


@given(st.one_of(st.text(max_size=260), st.from_regex(DOCUMENTED, fullmatch=True)))
def test_what_is_documented_is_what_is_checked(field: str) -> None:
    documented = DOCUMENTED.search(field) is not None and not field.endswith("\n")
    try:
        key = parse_key([field])
    except BadIdempotencyKeyError:
        assert not documented
    else:
        assert documented or field != field.strip(" \t")
        assert key is not None
        assert 1 <= len(key) <= 255


async def test_the_same_request_has_the_same_fingerprint() -> None:
    first = await take_fingerprint(request())
    assert len(first.digest()) == 32
    for same in (request(), request(path="/v1/x/async"), request(prefer="respond-async", x_request_id="1")):
        assert (await take_fingerprint(same)).digest() == first.digest()


@pytest.mark.parametrize(
    "other",
    [
        {"path": "/v1/y"},
        {"path": "/v1/x/"},
        {"body": b"{ }"},
        {"body": b""},
        {"query": b"a=b"},
        {"method": "PUT"},
    ],
)
async def test_another_request_has_another_one(other: dict[str, Any]) -> None:
    assert (await take_fingerprint(request(**other))).digest() != (await take_fingerprint(request())).digest()


async def test_a_body_in_pieces_is_the_same_body() -> None:
    whole, pieces = await take_fingerprint(request(body=b"")), await take_fingerprint(request(body=b""))
    whole.update(b"abc")
    for piece in (b"a", b"", b"bc"):
        pieces.update(piece)
    assert whole.digest() == pieces.digest()


async def test_the_body_is_there_for_the_next_reader() -> None:
    read = request(body=b"abc")
    await take_fingerprint(read)
    assert await read.body() == b"abc"
