"""Contracts of the integer tasks and of the workflows built from them.

What belongs here: names and models. The functions are in the worker (`worker/domain/integers.py`), the
workflows are composed in the API (`app/celery/workflows.py`).
"""

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from project_contracts.contract import MAX_DIGITS, Payload, SafeInteger, TaskContract
from project_contracts.queues import PROJECT_WORKER

MAX_ITEMS = 1000
"""Most integers in one payload, and most tasks in one workflow."""


class IntegerMultiplicationPayload(Payload):
    """Two factors."""

    multiplicand: SafeInteger = Field(examples=[6])
    multiplier: SafeInteger = Field(examples=[7])


class IntegersSumPayload(Payload):
    """The integers to add up, 1 to 1000 of them."""

    integers: Annotated[list[SafeInteger], Field(min_length=1, max_length=MAX_ITEMS, examples=[[1, 2, 3]])]


class IntegerWorkflowPayload(Payload):
    """An integer and the number of tasks to run on it."""

    integer: SafeInteger = Field(examples=[2])
    n: int = Field(ge=1, le=MAX_ITEMS, description="number of multiplication tasks", examples=[10])


class PowerPayload(IntegerWorkflowPayload):
    """As `IntegerWorkflowPayload`, for `integer` to the power `n`: the result must stay writable as text."""

    @model_validator(mode="after")
    def _result_is_bounded(self) -> Self:
        digits = self.n * math.log10(max(abs(self.integer), 1))
        if digits >= MAX_DIGITS - 1:
            raise ValueError(
                f"integer ** n would have about {digits:.0f} digits, the limit is {MAX_DIGITS}: "
                "choose a smaller integer or n"
            )
        return self


INTEGER_MULTIPLICATION = TaskContract(
    name="project-worker.integer_multiplication",
    queue=PROJECT_WORKER,
    payload=IntegerMultiplicationPayload,
    result=int,
)

INTEGERS_SUM = TaskContract(
    name="project-worker.integers_sum",
    queue=PROJECT_WORKER,
    payload=IntegersSumPayload,
    result=int,
)
