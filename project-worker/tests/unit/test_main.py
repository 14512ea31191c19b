"""The Celery app: every setting is one that Celery knows, and says what reliability asks for."""

from typing import Any

from celery import Celery
from celery._state import get_current_app
from celery.app.defaults import DEFAULTS
from kombu import serialization

from async_celery.queues import work_queue
from project_contracts.queues import PROJECT_WORKER, PROJECT_WORKER_PICKLE, QUEUES
from worker.config import Settings
from worker.main import create_app, create_pickle_app

KNOWN_ELSEWHERE = {"redis_backend_health_check_interval", "deprecated_settings"}
"""Read by Celery's Redis backend and kept by Celery itself, though not in its table of defaults."""


def test_celery_knows_every_setting(app: Celery) -> None:
    """Celery ignores a misspelt setting without a word: so the original's time limits never applied."""
    changed = set(app.conf.changes or ())
    assert "task_time_limit" in changed
    assert changed - KNOWN_ELSEWHERE <= set(DEFAULTS)


def test_nothing_accepted_is_lost(app: Celery) -> None:
    assert app.conf.task_acks_late is True
    assert app.conf.task_retry_on_worker_lost is False
    assert app.conf.task_reject_on_worker_lost is True
    assert app.conf.worker_deduplicate_successful_tasks is False
    assert app.conf.worker_cancel_long_running_tasks_on_connection_loss is True
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.broker_transport_options == {"confirm_publish": True}
    assert app.conf.result_backend_always_retry is True


def test_dead_peers_are_noticed(app: Celery) -> None:
    assert app.conf.broker_heartbeat == 10
    assert app.conf.broker_connection_max_retries is None
    assert app.conf.broker_connection_retry_on_startup is True
    assert app.conf.redis_socket_keepalive is True
    assert (app.conf.redis_socket_timeout, app.conf.redis_socket_connect_timeout) == (5, 2)
    assert app.conf.redis_backend_health_check_interval == 15


def test_only_json_is_read_or_written(app: Celery) -> None:
    assert app.conf.accept_content == app.conf.result_accept_content == ["json"]
    assert app.conf.task_serializer == app.conf.result_serializer == "json"


def test_only_signed_pickle_is_read_by_the_worker_of_its_own(pickle_app: Celery) -> None:
    assert pickle_app.conf.accept_content == ["application/x-signed-pickle"]
    assert pickle_app.conf.result_accept_content == ["json"]
    assert pickle_app.conf.task_serializer == pickle_app.conf.result_serializer == "json"
    assert list(pickle_app.amqp.queues.consume_from) == [PROJECT_WORKER_PICKLE]
    control: Any = pickle_app.control
    assert control.mailbox.accept == ["json"]


def test_no_other_process_has_what_would_unpickle(settings: Settings) -> None:
    kombu: Any = serialization
    create_pickle_app(settings)
    assert "application/x-signed-pickle" in kombu.registry._decoders
    create_app(settings)
    assert "application/x-signed-pickle" not in kombu.registry._decoders


def test_limits_come_from_the_settings_and_reach_each_task(app: Celery, settings: Settings) -> None:
    for task in app.tasks.values():
        assert task.time_limit == settings.task_time_limit_seconds == 30
        assert task.soft_time_limit == settings.task_soft_time_limit_seconds == 20
    assert app.conf.worker_max_tasks_per_child == settings.worker_max_tasks_per_child
    assert app.conf.worker_max_memory_per_child == settings.worker_max_memory_per_child_kib
    assert app.conf.worker_soft_shutdown_timeout == settings.soft_shutdown_timeout_seconds == 8
    assert app.conf.worker_proc_alive_timeout == 30
    assert app.conf.result_expires == settings.result_expires_seconds


def test_state_can_be_shown_and_tasks_cancelled(app: Celery) -> None:
    assert app.conf.result_extended is True
    assert app.conf.task_track_started is False
    assert app.conf.worker_enable_remote_control is True
    assert app.conf.worker_send_task_events is False  # production


def test_every_queue_is_known_its_own_is_worked_and_no_other_is_made(app: Celery) -> None:
    assert list(app.amqp.queues) == [queue.name for queue in QUEUES]
    assert list(app.amqp.queues.consume_from) == [PROJECT_WORKER]
    assert app.amqp.queues[PROJECT_WORKER] == work_queue(PROJECT_WORKER, max_length=100_000, delivery_limit=100)
    assert app.conf.task_default_queue == PROJECT_WORKER
    assert "project-wroker" not in app.amqp.queues
    assert app.conf.task_create_missing_queues is False


def test_the_app_is_not_the_process_s_current_one(settings: Settings) -> None:
    app = create_app(settings)
    assert get_current_app() is not app
