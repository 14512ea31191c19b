"""Puts the worker together: settings, the Celery app with every setting that matters, the tasks.

How it works: there are two apps, each for a worker process of its own, and each is made once, by its entry point;
nothing is built before. `create_app` (`tasks.py`) has the tasks of the queue `project-worker` and takes JSON.
`create_pickle_app` (`pickle_tasks.py`) has those of `project-worker-pickle` and takes signed pickle alone.
Each setting stands beside its reason. Names are Celery's own: one that Celery does not know is ignored without a
word, so a test checks them.

What belongs here: wiring. Values that differ between machines are in `config.py`.
"""

from typing import Any

from celery import Celery, signals

from async_celery.queues import work_queue
from async_celery.signed_pickle import CONTENT_TYPE, KeyRing, SignedPickle
from async_celery.signed_pickle import register as register_signed_pickle
from async_celery.worker import Policy, install
from async_celery.worker.metrics import install_metrics
from project_contracts.invoices import PICKLED
from project_contracts.queues import PROJECT_WORKER, PROJECT_WORKER_PICKLE, QUEUES
from worker import tasks
from worker.config import Settings, load_settings
from worker.connection import WorkerAMQP
from worker.database import session
from worker.logging import install_logging
from worker.tracing import install_tracing


def create_app(settings: Settings | None = None) -> Celery:
    """Make the worker's Celery app with its tasks.

    Args:
        settings: read from the environment when not given.

    Raises:
        SettingsError: the environment lacks a setting, or one is wrong.
    """
    settings = settings or load_settings()
    # It signs what it sends to the other queue, and has nothing that would unpickle.
    register_signed_pickle(_signed_pickle(settings), opens=False)
    app = _create(settings, queue=PROJECT_WORKER, metrics_port=settings.worker_metrics_port)
    session.configure(app, settings)
    tasks.register(app, settings)
    return app


def create_pickle_app(settings: Settings | None = None) -> Celery:
    """Make the Celery app of the worker that unpickles arguments, if they are signed.

    Args:
        settings: read from the environment when not given.

    Raises:
        SettingsError: the environment lacks a setting, or one is wrong.
    """
    settings = settings or load_settings()
    register_signed_pickle(_signed_pickle(settings), opens=True)
    app = _create(settings, queue=PROJECT_WORKER_PICKLE, metrics_port=settings.pickle_worker_metrics_port)
    app.conf.accept_content = [CONTENT_TYPE]
    # What workers are told (revoke, shutdown, …) comes as JSON, also here.
    control: Any = app.control
    control.mailbox.accept = ["json"]
    tasks.register_pickled(app, settings)
    return app


def _signed_pickle(settings: Settings) -> SignedPickle:
    keys = KeyRing(signing=settings.signing_key, accepted=settings.accepted_keys)
    return SignedPickle(keys, classes=PICKLED)


def _create(settings: Settings, *, queue: str, metrics_port: int) -> Celery:
    # Never "current": whoever makes a signature must say for which app, or it would go to a wrong broker.
    app = Celery(settings.worker_name, set_as_current=False, amqp=WorkerAMQP)
    app.conf.update(_configuration(settings))
    install(app, _policy(settings))
    if metrics_port:
        install_metrics(
            app,
            port=metrics_port,
            host=settings.worker_metrics_host,
            directory=settings.worker_metrics_directory,
        )
    # The app can send to every queue. Without -Q, its worker consumes its own alone.
    app.amqp.queues.select([queue])
    _work_only(app, queue)
    install_logging(app, settings)
    install_tracing(app, settings)
    return app


def _work_only(app: Celery, queue: str) -> None:
    """Have a worker refuse to start on another app's queue: it would end all tasks there as failures."""

    def check(instance: Any, **_: Any) -> None:
        if instance.app is app and (others := sorted(set(app.amqp.queues.consume_from) - {queue})):
            raise SystemExit(
                f"this app works the queue {queue} alone, not {', '.join(others)}: start it with -Q {queue}"
            )

    signals.celeryd_after_setup.connect(check, weak=False)


def _policy(settings: Settings) -> Policy:
    return Policy(
        max_attempts=settings.task_max_retries + 1,
        heartbeat_file=settings.worker_heartbeat_file,
    )


def _configuration(settings: Settings) -> dict[str, object]:
    return {
        # -- Where
        "broker_url": settings.broker,
        "result_backend": settings.backend,
        # One queue per service, by its name, and one for its signed pickle. The API declares them from the same
        # values: RabbitMQ refuses a second declaration that differs.
        "task_default_queue": PROJECT_WORKER,
        "task_default_exchange_type": "topic",
        "task_queues": [
            work_queue(queue.name, max_length=queue.max_length, delivery_limit=queue.delivery_limit)
            for queue in QUEUES
        ],
        # A typo in `-Q` or in a contract is an error, not a queue that nobody works.
        "task_create_missing_queues": False,
        # -- No accepted task is lost
        # The message is acknowledged after the task, so a dead worker's tasks go to another one.
        "task_acks_late": True,
        # A child that dies (kill -9, out of memory) does not take its task with it: the message goes back to the
        # queue. async_celery counts the runs that it begins, so a task which always kills its child ends as
        # FAILURE and dead letter after `task_max_retries`. Celery's own count (`task_retry_on_worker_lost`) sees
        # only children die, not their worker.
        "task_reject_on_worker_lost": True,
        "task_retry_on_worker_lost": False,
        # Success is never guessed from the result backend: this option hangs chords on a redelivery.
        "worker_deduplicate_successful_tasks": False,
        # A lost connection means that the broker gives our tasks to another worker: stop ours.
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        # A message that we send (next step of a chain, retry) is sent when RabbitMQ has confirmed it.
        "broker_transport_options": {"confirm_publish": True},
        # -- Dead peers are noticed, absent ones waited for
        "broker_heartbeat": 10,  # s
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # for ever; the default gives up after 100
        "result_backend_always_retry": True,  # a result is worth waiting for Redis
        "result_backend_max_sleep_between_retries_ms": 2000,  # the default, 10 s, is noticed late
        "redis_socket_timeout": settings.redis_socket_timeout_seconds,
        "redis_socket_connect_timeout": settings.redis_connect_timeout_seconds,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": 15,  # s
        # -- A task cannot run for ever, a child cannot grow for ever
        "task_time_limit": settings.task_time_limit_seconds,
        "task_soft_time_limit": settings.task_soft_time_limit_seconds,
        "worker_max_tasks_per_child": settings.worker_max_tasks_per_child,
        "worker_max_memory_per_child": settings.worker_max_memory_per_child_kib,
        "worker_proc_alive_timeout": 30,  # s; a loaded machine forks slowly, 4 s kills children that are well
        "worker_soft_shutdown_timeout": settings.soft_shutdown_timeout_seconds,
        # -- Fair shares: a child takes its next message when it is free, none waits behind a long task.
        "worker_prefetch_multiplier": 1,
        # -- JSON only: nothing is ever unpickled, but signed arguments in the worker of their own.
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # -- What the status document shows
        "result_expires": settings.result_expires_seconds,
        "result_extended": True,  # the task's name, arguments and worker beside the result
        # async_celery says STARTED, of what takes longer than 50 ms.
        "task_track_started": False,
        "worker_send_task_events": settings.sends_events,
        "task_send_sent_event": settings.sends_events,
        # A cancelled task does not start, and stops within seconds, by its tombstone in Redis; what waits in a
        # worker's memory is dropped at once by a remote-control command.
        "worker_enable_remote_control": True,
        "timezone": "UTC",
    }
