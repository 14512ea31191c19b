"""The app of the tests of signed pickle: `tasks_app`'s, which takes signed pickle and nothing else.

How it works: as the project's second worker. Its tasks are sent as signed pickle also by the worker itself.

What belongs here: tasks whose arguments JSON cannot hold.
"""

import os
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from celery import Celery, Task

from async_celery.signed_pickle import CONTENT_TYPE, SERIALIZER, KeyRing, SignedPickle, SigningAMQP, register

from ..oracle import Oracle
from .tasks_app import VARIABLE, AppSettings, make_app

KEY, NEXT_KEY = b"a key for tests of pickle", b"the key that comes next"


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """An argument as the tests like them."""

    weight: Decimal
    left: datetime
    due: date
    labels: frozenset[str]


SIGNED = SignedPickle(KeyRing(signing=KEY, accepted=(NEXT_KEY,)), classes=[Shipment])


def make_pickle_app(settings: AppSettings) -> Celery:
    """Make the app with its tasks; a worker's, or a client's of that worker."""
    register(SIGNED, opens=True)
    app = make_app(settings, amqp=SigningAMQP)
    app.conf.accept_content = [CONTENT_TYPE]
    control: Any = app.control
    control.mailbox.accept = ["json"]
    oracle = Oracle(settings.oracle)

    def note(task: "Task[Any, Any]") -> None:
        oracle.note(task.request.id or "", 1 + task.request.retries)

    @app.task(name="describe", bind=True, serializer=SERIALIZER)
    def describe(self: "Task[Any, Any]", shipment: Shipment) -> dict[str, str]:
        note(self)
        return {name: repr(value) for name, value in vars(shipment).items()}

    @app.task(name="plus", bind=True, serializer=SERIALIZER)
    def plus(self: "Task[Any, Any]", one: str | Decimal, other: Decimal) -> str:
        note(self)
        return str(Decimal(one) + other)

    @app.task(name="plus_all", bind=True, serializer=SERIALIZER)
    def plus_all(self: "Task[Any, Any]", values: list[str], other: Decimal) -> str:
        note(self)
        return str(sum(map(Decimal, values), other))

    @app.task(name="plus_later", bind=True, serializer=SERIALIZER)
    def plus_later(self: "Task[Any, Any]", one: Decimal, other: Decimal) -> str:
        """Add up in the second run."""
        note(self)
        if not self.request.retries:
            raise self.retry(countdown=1)
        return str(one + other)

    return app


if VARIABLE in os.environ:
    # Celery finds it by `-A tests.integration.worker.pickle_app:app`.
    app = make_pickle_app(AppSettings.from_text(os.environ[VARIABLE]))
