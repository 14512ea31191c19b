"""The stored form of results: what is read, what becomes a failure, what is never done."""

import json
import math
import pickle
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from celery.backends import base
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils import json as kombu_json

from async_celery import metas
from async_celery.status import task_status
from async_celery.types import Meta, TaskState

MIB = 1 << 20
compress: Any = base.compress_payload  # type: ignore[attr-defined] # Celery's stubs are older than it is


class Bomb:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a result was unpickled",)


def decode(payload: bytes) -> Meta:
    return metas.decode("an id", payload, max_bytes=MIB)


def error_of(payload: bytes) -> Any:
    """Return the failure as a caller sees it."""
    status = task_status("an id", decode(payload), accepted_at=None)
    assert status.state is TaskState.FAILURE
    return status.error


@pytest.mark.parametrize(
    "payload",
    [
        pickle.dumps({"status": "SUCCESS", "result": Bomb()}),
        b"",
        b"{",
        b"\xff\xfe",
        b'{"status": "SUCCESS"} trailing',
        b'{"status": "SUCCESS", "result": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"status": "SUCCESS", "result": ' + b"9" * 5000 + b"}",
        b'{"status": "SUCCESS", "result": {"__type__": "datetime", "__value__": "yesterday"}}',
        b'{"status": "SUCCESS", "result": {"__type__": "decimal", "__value__": "many"}}',
        b'{"status": "SUCCESS", "result": {"__type__": "no such", "__value__": 1}}',
        b"[1]",
        b"null",
        b"{}",
        b'{"status": null}',
        b'{"status": ["SUCCESS"]}',
        base.COMPRESSED_PAYLOAD_MAGIC + b"no such codec\0x",  # type: ignore[attr-defined] # as above
        base.COMPRESSED_PAYLOAD_MAGIC + b"application/x-gzip\0not gzip",  # type: ignore[attr-defined] # as above
    ],
    ids=lambda payload: repr(payload[:60]),
)
def test_what_cannot_be_read_is_a_failure(payload: bytes) -> None:
    error = error_of(payload)
    assert error.type == "UnreadableResult"
    assert "not readable as JSON" in error.message
    assert len(error.message) < 400


@given(st.binary(max_size=200))
def test_nothing_that_is_stored_raises(payload: bytes) -> None:
    assert isinstance(decode(payload)["status"], str)


def test_a_large_result_is_not_decoded() -> None:
    payload = b"[" * (MIB + 1)
    error = error_of(payload)
    assert error.type == "ResultTooLarge"
    assert str(MIB + 1) in error.message
    assert str(MIB) in error.message
    assert "max_result_bytes" in error.message


def test_what_is_just_small_enough_is_decoded() -> None:
    meta = json.dumps({"status": "SUCCESS", "result": ""})
    meta = json.dumps({"status": "SUCCESS", "result": "x" * (MIB - len(meta))})
    assert len(meta) == MIB
    assert decode(meta.encode())["status"] == "SUCCESS"


def test_a_compressed_result_is_read_and_its_true_size_counts() -> None:
    meta = {"status": "SUCCESS", "result": 3}
    assert decode(compress(json.dumps(meta), "gzip")) == meta
    large = compress(json.dumps({"status": "SUCCESS", "result": "x" * MIB}), "gzip")
    assert len(large) < MIB
    assert error_of(large).type == "ResultTooLarge"


def test_values_are_as_celery_reads_them() -> None:
    result = {
        "moment": datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC),
        "day": date(2025, 1, 2),
        "price": Decimal("1.10"),
        "id": UUID(int=7),
        "raw": b"\0\xff",
    }
    payload = kombu_json.dumps({"status": "SUCCESS", "result": result}).encode()
    assert decode(payload)["result"] == result
    assert math.isnan(decode(b'{"status": "SUCCESS", "result": NaN}')["result"])


def test_an_exception_stays_a_name_and_a_text() -> None:
    stored = {"exc_type": "SystemExit", "exc_message": ["now"], "exc_module": "builtins"}
    payload = json.dumps({"status": "FAILURE", "result": stored}).encode()
    assert decode(payload)["result"] == stored


def test_a_revoked_task_is_stored_as_celery_stores_it() -> None:
    status = task_status("an id", decode(metas.revoked("an id").encode()), accepted_at=None)
    assert status.state is TaskState.REVOKED
    assert status.error is not None
    assert status.error.message == "revoked"
    assert status.finished_at is not None
