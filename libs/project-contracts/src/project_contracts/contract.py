"""TaskContract: the wire format of one task, as a value.

How it works: a contract is a frozen value with the task's name, its queue, its serializer, and the pydantic
models of its payload and of its result. The API validates a payload *before* it publishes; the worker builds
its Celery task from the same value, so name, queue and serializer cannot drift apart.

What belongs here: the shape of a contract and the number types that all contracts share. Contracts themselves
live in a module per domain: `integers.py`, `statistics.py`, `invoices.py`.
"""

from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

MAX_SAFE_INTEGER = 2**53 - 1
"""Largest integer that every JSON reader keeps exact (RFC 8259 §6)."""

MAX_DIGITS = 4300
"""Longest integer that Python turns from and into text by default (`sys.int_info.default_max_str_digits`)."""

SafeInteger = Annotated[int, Field(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
"""An integer that a client can send and read back unchanged, whatever its language."""


class Payload(BaseModel):
    """Base of every task's payload: strict types, no unknown field, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class NoPayload(Payload):
    """The payload of a task without arguments."""


class Result(BaseModel):
    """Base of every structured result."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Payload)
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class TaskContract(Generic[P, R]):
    """One task as both sides see it.

    `payload`'s fields are the keyword arguments of the task's function; `result` is a type that pydantic can
    validate (`int`, or a `Result` model). `serializer` is how the arguments travel: as JSON, or as the values
    that the payload holds, signed and pickled. Results are always JSON.
    """

    name: str
    queue: str
    payload: type[P]
    result: type[R]
    serializer: Literal["json", "signed-pickle"] = "json"
