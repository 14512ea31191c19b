"""The pool `asyncio`: a worker whose tasks run side by side on one event loop, in the worker's own process.

How it works: Celery's worker stays what it is (consumer, remote control, time limits, acknowledgements); only
where `prefork` gives a message's task to a process, this pool makes a job of it (`jobs.py`). Celery's event
loop, kombu's hub, and asyncio's run in turns: where the hub would sleep until one of its files is ready,
asyncio's loop runs until then, with the hub's poller among its files. So a message begins its task at once, and
asyncio waits for everything else. When jobs have ended, the hub has its turn, and sends all their
acknowledgements together.

As many jobs run as the worker's concurrency says (`-c 100`), the others wait here. Every 50 ms one look at all
that run minds their time limits and says STARTED of those that take their time; one question to Redis every
`Policy.cancel_check_interval` finds those that were cancelled. The soft time limit interrupts the body where it
awaits; the hard one stores the failure, as it does elsewhere, and gives the job up.

What a body must not do is to block: all tasks, and the connection to the broker, wait meanwhile. Plain
functions run in threads; those neither hear of a time limit nor of a cancellation. A body that swallows its
cancellation cannot be killed, there is no process of its own; it is given up, and the log says so.

Needs `pip install async-celery[asyncio]`.

What belongs here: how many jobs run, for how long, and whose turn it is.
"""

import asyncio
import gc
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from celery import signals
from celery._state import _task_stack  # type: ignore[attr-defined]  # older stubs
from celery.app.trace import fast_trace_task, trace_task_ret
from celery.concurrency.base import BasePool
from celery.exceptions import ImproperlyConfigured, SoftTimeLimitExceeded, TimeLimitExceeded
from kombu.asynchronous import get_event_loop

from async_celery.worker import direct, loops
from async_celery.worker.backend import backend_of
from async_celery.worker.clock import TaskCancelled
from async_celery.worker.jobs import Job, JobLoop, identity, in_greenlet, raised
from async_celery.worker.policy import policy_of
from async_celery.worker.waiting import run_here

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_NEVER = float("inf")
_ENDING = 5.0  # s that jobs have for cleaning up when the worker is to end at once
_OBJECTS = 200  # of a job that runs, and more
_LOOK = 0.05  # s between two looks at what runs; limits of time are no more exact than this
_LONGEST_TURN = 0.5  # s without a look at Celery's timers while the worker ends


class TaskPool(BasePool):
    """Runs jobs. `worker_pool = "asyncio"` chooses it, for an app that `install` was called on."""

    body_can_be_buffer = True
    has_waiting = False
    """Acknowledgements are held no longer than until the end of a turn; see `wire.py`."""

    limit: int
    options: dict[str, Any]
    app: Any

    def on_start(self) -> None:
        """Make the event loop. Celery calls it in the process that runs the tasks.

        Raises:
            ImproperlyConfigured: `install` was not called on the app.
        """
        self._home = JobLoop()
        self.loop = self._home.loop
        # Of plain functions there may be as many as of all tasks. What `meanwhile` calls does not wait for them.
        self.loop.set_default_executor(ThreadPoolExecutor(self.limit, "async-celery-function"))
        self._aside = ThreadPoolExecutor(1, "async-celery-aside")
        loops.use(self._home)
        self._jobs: dict[int, Job] = {}
        self._waiting: deque[tuple[Job, _Options]] = deque()
        self._come: list[tuple[Any, direct.Body]] = []  # by plain messages
        self._asked = 0  # questions to Redis about what has come
        self._connections = 0  # to the broker that were lost
        self._given_up: set[Job] = set()  # which run on
        self._policy = policy_of(self.app)
        self._looks = False
        self._asks_at = 0.0
        self._asking = False
        self._turning = False
        self._error: Exception | None = None
        _tell_stacks_apart(self.app)
        run_here(self.app)
        signals.worker_process_init.send(sender=None)
        # All that is here stays: not to be looked through at each collection.
        gc.collect()
        gc.freeze()
        # Jobs leave no cycles behind (`jobs.py`), and those that run would be looked through again and again.
        youngest, *older = gc.get_threshold()
        gc.set_threshold(max(youngest, _OBJECTS * self.limit), *older)

    def register_with_event_loop(self, hub: Any) -> None:
        """Take turns with Celery's event loop, which is made anew with each connection to the broker."""
        if not isinstance(hub.poller, _Turns):
            hub.poller = _Turns(hub.poller, self)

    # ---- jobs ----

    def on_apply(  # type: ignore[override]  # the stubs return nothing
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,  # noqa: ARG002 (Celery gives none)
        **options: Any,
    ) -> Job:
        """Run a task as soon as there is room for it."""
        return self._take(Job(target, args, self._end), options)

    def run_directly(self, request: Any, body: direct.Body) -> None:
        """Run a plain message's task, the direct way as far as it goes (`direct.py`).

        Of all messages that were read together, Redis is asked together whether it knows anything.
        """
        if not self._come:
            self._home.spawn(self._begin_what_has_come())
        self._come.append((request, body))

    async def _begin_what_has_come(self) -> None:
        come, self._come = self._come, []
        connections = self._connections
        self._asked += 1
        try:
            are_new = await backend_of(self.app).are_new([request for request, _ in come])
        except Exception:
            are_new = False  # each asks for itself
        finally:
            self._asked -= 1
        if self._connections == connections:
            for request, body in come:
                self._heed(self._begin_directly, request, body, are_new)

    def _begin_directly(self, request: Any, body: direct.Body, is_new: bool) -> None:
        limit, soft_limit = request.time_limits
        task = request.task
        # One that has to wait may be cancelled meanwhile.
        is_new = is_new and len(self._jobs) < self.limit
        job = Job(
            fast_trace_task if self.app.use_fast_trace_task else trace_task_ret,
            (request.type, request.id, request.request_dict, request.body, None, None),
            self._end,
            partial(direct.run, request=request, body=body, is_new=is_new),
        )
        # For the other way, `Request.execute_using_pool` does this.
        request._apply_result = weakref.ref(job)
        options = {
            "accept_callback": request.on_accepted,
            "timeout_callback": request.on_timeout,
            "callback": partial(direct.settle, request),
            "error_callback": request.on_failure,
            "soft_timeout": soft_limit or task.soft_time_limit,
            "timeout": limit or task.time_limit,
        }
        self._take(job, options)

    def _take(self, job: Job, options: dict[str, Any]) -> Job:
        if len(self._jobs) < self.limit:
            self._begin(job, _Options(self.options, options))
        else:
            self._waiting.append((job, _Options(self.options, options)))
        return job

    def _begin(self, job: Job, options: "_Options") -> None:
        self._jobs[job.pid] = job
        job.options = options
        options.begin(now := time.monotonic())
        options.on_accepted(job.pid, now)
        job.task = self._home.begin(job.run())
        if not self._looks:
            self._looks = True
            self._look_later()

    def _end(self, job: Job, outcome: Any) -> None:
        if job.is_given_up:
            self._given_up.discard(job)
        else:
            self._leave(job)
            options: _Options = job.options
            self._tell(options.on_end(outcome), outcome)

    def _leave(self, job: Job) -> None:
        """Make room for the next one."""
        del self._jobs[job.pid]
        while self._waiting and len(self._jobs) < self.limit:
            self._begin(*self._waiting.popleft())

    def _tell(self, hear: Callable[..., Any], *what: Any) -> None:
        """Call Celery back, which may have acknowledgements to send then."""
        self._heed(hear, *what)
        self.end_turn()

    def _heed(self, function: Callable[..., Any], *args: Any) -> None:
        """Call what may raise an error of Celery's: that ends its event loop's turn, as it would elsewhere."""
        try:
            function(*args)
        except Exception as exc:
            self._error = exc
            self.end_turn()

    def _give_up(self, job: Job) -> None:
        job.give_up()
        self._given_up.add(job)
        self._leave(job)

    def _on_soft_timeout(self, job: Job, now: float) -> None:
        options: _Options = job.options
        # It counts in the body: what waits for Redis, before or after, is not interrupted.
        due = (job.began or now) + (options.soft_timeout or 0.0)
        if now < due:
            options.soft_at = due
            return
        options.soft_at = _NEVER
        job.interrupt(SoftTimeLimitExceeded(options.soft_timeout))
        self._tell(options.on_timeout, True, options.soft_timeout)

    def _on_timeout(self, job: Job) -> None:
        options: _Options = job.options
        self._give_up(job)
        self._spawn(self._tell_of_timeout, options)

    def _tell_of_timeout(self, options: "_Options") -> None:
        # What the pool of processes does, in its order.
        outcome = raised(TimeLimitExceeded(options.timeout))
        self._tell(options.on_end(outcome), outcome)
        self._tell(options.on_timeout, False, options.timeout)

    def _spawn(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function that may wait, beside the jobs."""
        self._home.spawn(in_greenlet(function, *args))

    # ---- looking after what runs ----

    def _look_later(self) -> None:
        self.loop.call_later(min(_LOOK, self._policy.started_after), self._look, context=self._home.context)

    def _look(self) -> None:
        """Mind the time limits; say STARTED of what takes its time; ask for what was cancelled."""
        now, policy = time.monotonic(), self._policy
        asked = []
        try:
            for job in list(self._jobs.values()):
                options: _Options = job.options
                if now >= options.at:
                    self._on_timeout(job)
                elif now >= options.soft_at:
                    self._on_soft_timeout(job, now)
                elif not job.armed:
                    pass
                elif job.told_at:
                    if now >= job.told_at + policy.cancel_grace:
                        job.told_at = _NEVER
                        self._spawn(self._abandon, job, job.celery_task, job.celery_request)
                elif not job.is_shown:
                    if now >= job.began + policy.started_after:
                        job.is_shown = True
                        self._spawn(_store_started, job.pid, job.celery_task, job.celery_request)
                elif now >= job.began + policy.cancel_check_interval:
                    asked.append((job, job.celery_request))
            if asked and now >= self._asks_at and not self._asking:
                self._asking, self._asks_at = True, now + policy.cancel_check_interval
                self._spawn(self._ask, asked)
        finally:
            self._looks = bool(self._jobs)
            if self._looks:
                self._look_later()

    def _ask(self, asked: list[tuple[Job, Any]]) -> None:
        try:
            stopped = backend_of(self.app).revoked_of([request for _, request in asked])
        except Exception as exc:
            # The result backend is away. The tasks are not: ask again.
            _logger.warning("Tasks could not be looked up among the cancelled: %s", exc)
        else:
            for job, request in asked:
                if job.armed and any(request is one for one in stopped):
                    job.told_at = time.monotonic()
                    job.interrupt(TaskCancelled(f"task {request.id} was cancelled"))
        finally:
            self._asking = False

    def _abandon(self, job: Job, task: Any, request: Any) -> None:
        """Give up a task that was cancelled and does not end."""
        outcome = task.stop_waiting(request)
        if job.pid not in self._jobs:
            return  # it has ended meanwhile
        _logger.error(
            "Task %s[%s] did not end within %g s of being cancelled, and runs on: nobody hears of it any more",
            task.name,
            request.id,
            self._policy.cancel_grace,
        )
        options: _Options = job.options
        self._give_up(job)
        self._tell(options.on_end(outcome), outcome)

    # ---- turns ----

    def turn(self, seconds: float) -> None:
        """Let asyncio's event loop run, until something for Celery's has come.

        Raises:
            Exception: what Celery has raised when it was told of a job.
        """
        timer = self.loop.call_later(seconds, self.loop.stop)
        self._turning = True
        try:
            self.loop.run_forever()
        finally:
            self._turning = False
            timer.cancel()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def end_turn(self) -> None:
        """Let Celery's event loop have its turn, if this is asyncio's."""
        if self._turning:
            self.loop.stop()

    def meanwhile(self, function: Callable[..., T], *args: Any) -> T:
        """Call in a thread what blocks for long, as connecting to a broker that is away; jobs run on."""
        return self.loop.run_until_complete(self.loop.run_in_executor(self._aside, function, *args))

    def flush(self) -> None:
        """Forget what has not begun: the connection to the broker is lost, and it comes back."""
        self._connections += 1
        self._waiting.clear()

    def on_stop(self) -> None:
        """Wait for all jobs, then close what they have left open."""
        hub = get_event_loop()
        while self._jobs or self._waiting or self._come or self._asked:
            self._hear(self.turn, _LONGEST_TURN)
            if hub is not None:
                self._hear(hub.fire_timers)
        self._close()

    def on_terminate(self) -> None:
        """End now: what runs has a moment to clean up, and its messages come back."""
        self.flush()
        ending = [job.task for job in self._jobs.values() if job.task is not None]
        for job in list(self._jobs.values()):
            self._give_up(job)
        if ending:
            self._hear(self.loop.run_until_complete, asyncio.wait(ending, timeout=_ENDING))
        self._close()

    def _hear(self, function: Callable[..., Any], *args: Any) -> None:
        """Call something at the worker's end, which goes on whatever happens."""
        try:
            function(*args)
        except Exception:
            _logger.exception("While the worker ends")

    def _close(self) -> None:
        self._aside.shutdown(wait=False)
        signals.worker_process_shutdown.send(sender=None, pid=None, exitcode=0)
        self._home.close()

    def terminate_job(self, pid: int, signal: Any = None) -> None:  # noqa: ARG002 (Celery's signature)
        """Give a job up, by what Celery knows it as."""
        if (job := self._jobs.get(pid)) is not None:
            self._give_up(job)

    def grow(self, n: int = 1) -> None:
        """Run more jobs at once."""
        self.limit += n
        while self._waiting and len(self._jobs) < self.limit:
            self._begin(*self._waiting.popleft())

    def shrink(self, n: int = 1) -> None:
        """Run fewer, at least one; those that run stay."""
        self.limit = max(1, self.limit - n)

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),  # type: ignore[misc]  # older stubs
            "running": len(self._jobs),
            "waiting": len(self._waiting),
            "timeouts": (self.options.get("soft_timeout") or 0, self.options.get("timeout") or 0),
        }


def _tell_stacks_apart(app: Any) -> None:
    """Have Celery find the current task, and its request, by the job."""
    for stack in (_task_stack, *(task.request_stack for task in app.tasks.values())):
        if not hasattr(stack, "__ident_func__"):
            raise ImproperlyConfigured("the pool asyncio needs Celery's own stacks: unset USE_FAST_LOCALS")
        stack.__ident_func__ = identity


def _store_started(pid: int, task: Any, request: Any) -> None:
    request.worker_pid = pid
    try:
        task.backend.store_started(request)
    except Exception as exc:
        _logger.warning("Task %s[%s] could not be shown as STARTED: %s", task.name, request.id, exc)


class _Options:
    """What Celery wants to be told of a job, and its time limits, in s."""

    __slots__ = (
        "_on_raise",
        "_on_return",
        "at",
        "on_accepted",
        "on_timeout",
        "soft_at",
        "soft_timeout",
        "timeout",
    )

    def __init__(self, pools: dict[str, Any], options: dict[str, Any]) -> None:
        self._on_return, self._on_raise = options["callback"], options["error_callback"]
        self.on_accepted, self.on_timeout = options["accept_callback"], options["timeout_callback"]
        self.soft_timeout: float | None = options.get("soft_timeout") or pools.get("soft_timeout")
        self.timeout: float | None = options.get("timeout") or pools.get("timeout")
        self.soft_at = self.at = _NEVER

    def begin(self, now: float) -> None:
        """Have the limits count from now, by `time.monotonic`."""
        if self.soft_timeout:
            self.soft_at = now + self.soft_timeout
        if self.timeout:
            self.at = now + self.timeout

    def on_end(self, outcome: Any) -> Callable[[Any], None]:
        """Return whom to tell of an outcome."""
        hear: Callable[[Any], None] = self._on_return if isinstance(outcome, tuple) else self._on_raise
        return hear


class _Turns:
    """A poller of kombu's hub that lets asyncio run while it waits."""

    def __init__(self, poller: Any, pool: TaskPool) -> None:
        # kombu's own hold the system's.
        system = getattr(poller, "_epoll", None) or getattr(poller, "_kqueue", None)
        if system is None:
            raise ImproperlyConfigured("the pool asyncio needs epoll or kqueue, which this system has not")
        self._poller, self._pool, self._loop = poller, pool, pool.loop
        self._number = system.fileno()
        self.register, self.unregister = poller.register, poller.unregister
        self._loop.add_reader(self._number, pool.end_turn)

    def poll(self, seconds: float | None) -> Any:
        """Return what is ready, after at most `seconds`."""
        self._pool.turn(1.0 if seconds is None else seconds)
        return self._poller.poll(0)

    def close(self) -> None:
        """Close the poller."""
        if not self._loop.is_closed():
            self._loop.remove_reader(self._number)
        self._poller.close()
