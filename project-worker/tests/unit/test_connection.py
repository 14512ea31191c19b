"""A broker that is away for long is still asked every few seconds."""

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from kombu.utils import functional

from worker.config import Settings
from worker.connection import LONGEST_WAIT
from worker.main import create_app


def test_waits_between_attempts_stay_short(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "sleep", lambda _: None)
    app: Celery = create_app(settings.model_copy(update={"rabbitmq_port": 1}))  # nobody listens there
    waits: list[float] = []
    with pytest.raises(OperationalError):
        app.connection_for_read().ensure_connection(lambda _, wait: waits.append(wait), max_retries=10)
    assert len(waits) == 10
    assert max(waits) == LONGEST_WAIT
