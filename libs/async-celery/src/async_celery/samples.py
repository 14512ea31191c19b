"""Messages after a sample: what Celery would send, without asking it again for what it has said before.

How it works: for half of the time that recording a large workflow takes, Celery finds out, message by message,
what is the same in all messages of a task with the same options: queue, exchange, limits, headers. So a sample of
each such kind is recorded (`recording.py`), and a message is a copy of it with its own ids, arguments, times, and
what comes after the task. A second sample is compared with what is made so after the first; where they differ
(another task protocol, messages that are signed, …), Celery makes all messages of that kind.

It also makes those that may depend on anything else: delays, headers and stamps of the caller's, routers, a task
that sends (its messages inherit from it), and all of them while somebody listens to Celery's signals about
publishing.

What belongs here: which messages are alike, and what differs in them.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from celery import signals
from celery.app.routes import MapRoute
from kombu.utils.functional import maybe_list

from async_celery.reprs import celery_repr
from async_celery.types import PUBLISHED_AT, Publication

_MOST = 1000  # kinds, so that names that a caller makes up do not fill the memory
_PLAIN = frozenset({str, int, float, bool, type(None)})
_TIMES = frozenset({"countdown", "eta"})
_OF_SENDING = ("producer", "add_to_parent")  # about which a recorder does not care
_PARTS_OF_BODY = 3  # of Celery's task protocol 2
_BEFORE, _AFTER = signals.before_task_publish, signals.after_task_publish

Record = Callable[..., Publication]
"""Celery's `send_task`, which returns what it would publish."""


class Samples:
    """The samples of one app. Thread-safe."""

    def __init__(self, app: Any, record: Record) -> None:
        """Take the recorder's app, and what records."""
        self._app = app
        self._record = record
        self._samples: dict[tuple[str, str], Publication | None] = {}

    def publication(
        self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], *, origin: str
    ) -> Publication | None:
        """Return what Celery would publish; None where only Celery can say.

        Args:
            name: see `Celery.send_task`.
            args: as above.
            kwargs: as above.
            options: as above.
            origin: the header of that name.
        """
        same = dict(options)
        for each in _OF_SENDING:
            same.pop(each, None)
        varying = {each: same.pop(each, None) for each in _VARYING}
        if not (
            type(varying["task_id"]) is str
            and (varying["expires"] is None or type(varying["expires"]) is str)
            and (args is None or type(args) in (tuple, list))
            and (kwargs is None or type(kwargs) is dict)
            and _PLAIN.issuperset(map(type, same.values()))
            and _TIMES.isdisjoint(same)
            and not (_BEFORE.receivers or _AFTER.receivers)
            and self._app.current_worker_task is None
        ):
            return None
        kind = name, repr(same)
        try:
            sample = self._samples[kind]
        except KeyError:
            if len(self._samples) >= _MOST:
                return None
            sample = self._samples[kind] = self._new_sample(name, same)
        return sample and self._like(sample, args or (), kwargs or {}, varying, origin)

    def _like(
        self, sample: Publication, args: Any, kwargs: Any, varying: Mapping[str, Any], origin: str
    ) -> Publication:
        app = self._app
        levels, task_id = app.conf.task_repr_maxlevels, varying["task_id"]
        headers = {
            **sample.options["headers"],
            "id": task_id,
            "expires": varying["expires"],
            "group": varying["group_id"],
            "group_index": varying["group_index"],
            "root_id": varying["root_id"] or task_id,
            "parent_id": varying["parent_id"],
            "argsrepr": celery_repr(args, app.amqp.argsrepr_maxsize, levels),
            "kwargsrepr": celery_repr(kwargs, app.amqp.kwargsrepr_maxsize, levels),
            "origin": origin,
            PUBLISHED_AT: time.time(),
        }
        after = {
            "callbacks": maybe_list(varying["link"]),
            "errbacks": maybe_list(varying["link_error"]),
            "chain": varying["chain"],
            "chord": varying["chord"],
        }
        reply_to = varying["reply_to"] or app.thread_oid
        return Publication(
            task_id=task_id,
            body=(args, kwargs, after),
            options={**sample.options, "headers": headers, "correlation_id": task_id, "reply_to": reply_to},
        )

    def _new_sample(self, name: str, same: Mapping[str, Any]) -> Publication | None:
        if not all(isinstance(route, MapRoute) for route in self._app.amqp.routes):
            # It may decide by the arguments.
            return None
        sample = self._record(name, **same, task_id="0")
        if type(sample.body) is not tuple or len(sample.body) != _PARTS_OF_BODY:
            return None
        args, kwargs = (1, "a"), {"b": None}
        another = self._record(name, args, kwargs, **same, **_ANOTHER)
        headers = another.options["headers"]
        like = self._like(sample, args, kwargs, _ANOTHER, headers["origin"])
        like.options["headers"][PUBLISHED_AT] = headers[PUBLISHED_AT]
        return sample if like == another else None


_ANOTHER: Mapping[str, Any] = {
    "task_id": "1",
    "root_id": "2",
    "parent_id": "3",
    "group_id": "4",
    "group_index": 5,
    "expires": "2030-01-01T00:00:00+00:00",
    "reply_to": "6",
    "link": {"task": "7"},
    "link_error": [{"task": "8"}],
    "chain": [{"task": "9"}],
    "chord": {"task": "10"},
}
_VARYING = tuple(_ANOTHER)
