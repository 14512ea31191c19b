"""The tree of errors, and the facts they carry."""

import pytest

from async_celery import errors
from async_celery.types import TaskState


def drawn_tree() -> dict[str, str]:
    """Return {class: its base} as the module's docstring draws it."""
    lines = [line[4:] for line in (errors.__doc__ or "").splitlines() if line.startswith("    ")]
    bases, path = {}, [lines[0].strip()]
    for line in lines[1:]:
        text = line.lstrip("│├└─ ")
        depth = (len(line) - len(text)) // 4
        name = text.split()[0]
        bases[name] = path[depth - 1]
        path = [*path[:depth], name]
    return bases


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    classes = {
        name: value.__bases__[0].__name__
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.AsyncCeleryError) and name != "AsyncCeleryError"
    }
    assert drawn_tree() == classes


def test_errors_carry_facts() -> None:
    timeout = errors.ResultTimeout(task_id="t", state=TaskState.STARTED, timeout=1.5, revoked=True)
    assert isinstance(timeout, TimeoutError)
    assert (timeout.task_id, timeout.state, timeout.timeout, timeout.revoked) == ("t", "STARTED", 1.5, True)
    assert str(timeout) == "task t was STARTED after 1.5 s; it was revoked"
    failed = errors.TaskFailed(task_id="t", name="add", type="ValueError", message="boom")
    assert (failed.task_id, failed.name, failed.type, failed.message) == ("t", "add", "ValueError", "boom")
    assert str(failed) == "task add (t) failed: ValueError: boom"
    revoked = errors.TaskRevoked(task_id="t", name=None, reason="expired")
    assert (revoked.reason, str(revoked)) == ("expired", "task of unknown name (t) expired in its queue")
    assert errors.PublishTimeout("text", task_id="t").task_id == "t"
    assert errors.TaskNotFound("t").task_id == errors.TaskExpired("t").task_id == "t"


@pytest.mark.parametrize("kept", [True, False])
def test_a_timeout_says_what_became_of_the_task(kept: bool) -> None:
    text = str(errors.ResultTimeout(task_id="t", state=TaskState.QUEUED, timeout=1, revoked=not kept))
    assert ("goes on" in text) is kept
