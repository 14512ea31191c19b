"""What stored results mean, and the state of a workflow, from plain values."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_celery.status import is_stuck, task_at_fault, task_status, workflow_status
from async_celery.types import (
    Meta,
    NodeKind,
    TaskErrorInfo,
    TaskNode,
    TaskRecord,
    TaskState,
    TaskStatus,
    TaskTimeline,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
S = TaskState


def meta(status: str, result: Any = None, **extended: Any) -> Meta:
    return {"status": status, "result": result, "date_done": "2030-01-01T00:00:05.5+00:00", **extended}


def status_of(stored: Meta | None) -> TaskStatus:
    return task_status("id", stored, accepted_at=NOW)


@pytest.mark.parametrize(
    ("stored", "state"),
    [
        ("PENDING", S.QUEUED),
        ("RECEIVED", S.QUEUED),
        ("STARTED", S.STARTED),
        ("RETRY", S.RETRY),
        ("SUCCESS", S.SUCCESS),
        ("FAILURE", S.FAILURE),
        ("REVOKED", S.REVOKED),
        ("REJECTED", S.FAILURE),
        ("IGNORED", S.FAILURE),
        ("PROGRESS", S.PROGRESS),
        ("HALFWAY", S.PROGRESS),
    ],
)
def test_celerys_states_and_a_tasks_own(stored: str, state: TaskState) -> None:
    assert status_of(meta(stored)).state is state


def test_success() -> None:
    status = status_of(meta("SUCCESS", [1, 2], name="add", retries=2, worker="w@h"))
    assert status == TaskStatus(
        id="id",
        name="add",
        state=S.SUCCESS,
        accepted_at=NOW,
        finished_at=datetime(2030, 1, 1, 0, 0, 5, 500000, tzinfo=UTC),
        attempts=3,
        worker="w@h",
        result=[1, 2],
    )


def test_our_workers_count_attempts_and_tell_times_and_codes() -> None:
    timeline = {
        "published": 1893456000.5, "due": 1893456000.75, "received": 1893456001, "started": None,
        "finished": float("nan"),
    }  # fmt: skip
    error = {"exc_type": "TooSmall", "exc_message": ["3"], "code": "too-small"}
    status = status_of(meta("FAILURE", error, retries=1, attempts=4, timeline=timeline, stored=1893456002))
    assert status.attempts == 4
    assert status.error == TaskErrorInfo(type="TooSmall", message="3", code="too-small")
    assert status.timeline == TaskTimeline(
        published_at=NOW + timedelta(seconds=0.5),
        due_at=NOW + timedelta(seconds=0.75),
        received_at=NOW + timedelta(seconds=1),
        stored_at=NOW + timedelta(seconds=2),
    )


@pytest.mark.parametrize("code", [None, 7, ["x"]])
@pytest.mark.parametrize("timeline", [None, "x", {}, {"started": "x"}, {"started": 1e300}])
def test_what_is_no_code_and_no_time_is_none(code: Any, timeline: Any) -> None:
    error = {"exc_type": "TooSmall", "exc_message": ["3"], "code": code}
    status = status_of(meta("FAILURE", error, timeline=timeline, attempts="x"))
    assert status.error == TaskErrorInfo(type="TooSmall", message="3")
    assert status.timeline == TaskTimeline()
    assert status.attempts is None


def test_started_and_progress() -> None:
    started = status_of(meta("STARTED", {"pid": 1, "hostname": "w@h"}))
    assert (started.worker, started.result, started.progress, started.finished_at) == ("w@h", None, None, None)
    progress = status_of(meta("PROGRESS", {"done": 1}))
    assert (progress.progress, progress.result) == ({"done": 1}, None)


@pytest.mark.parametrize("state", ["FAILURE", "RETRY", "REVOKED"])
@pytest.mark.parametrize(
    ("stored", "type_", "message"),
    [
        ({"exc_type": "ValueError", "exc_message": ["a", 1], "exc_module": "builtins"}, "ValueError", "a, 1"),
        ({"exc_type": "ValueError", "exc_message": "a"}, "ValueError", "a"),
        ({"exc_type": "ValueError"}, "ValueError", ""),
        ("only text", "Unknown", "only text"),
        (None, "Unknown", "None"),
    ],
)
def test_errors_are_names_and_texts(state: str, stored: Any, type_: str, message: str) -> None:
    status = status_of(meta(state, stored))
    assert status.error is not None
    assert (status.error.type, status.error.message) == (type_, message)
    assert status.result is None


def test_times_without_a_zone_are_utc() -> None:
    assert status_of({"status": "SUCCESS", "result": 1, "date_done": "2030-01-01T00:00:00"}).finished_at == NOW
    assert status_of({"status": "SUCCESS", "result": 1}).finished_at is None


def leaf(name: str) -> TaskNode:
    return TaskNode(kind=NodeKind.TASK, id=name, name=name)


def node(kind: str, *children: str | TaskNode) -> TaskNode:
    nodes = tuple(leaf(child) if isinstance(child, str) else child for child in children)
    return TaskNode(kind=NodeKind(kind), id=f"{kind}-id", name=kind, children=nodes)


def look(tree: TaskNode, **stored: str) -> TaskStatus:
    error = {"exc_type": "ValueError", "exc_message": ["boom"]}
    metas = {
        name: meta(state, name.upper() if state == "SUCCESS" else error) if state != "NONE" else None
        for name, state in stored.items()
    }
    return workflow_status(TaskRecord(accepted_at=NOW, deadline=NOW, tree=tree), metas)


CHAIN, GROUP, CHORD = node("chain", "a", "b"), node("group", "a", "b"), node("chord", "a", "b", "c")


@pytest.mark.parametrize(
    ("tree", "stored", "state"),
    [
        (CHAIN, {}, S.QUEUED),
        (CHAIN, {"a": "STARTED"}, S.STARTED),
        (CHAIN, {"a": "RETRY"}, S.STARTED),
        (CHAIN, {"a": "PROGRESS"}, S.STARTED),
        (CHAIN, {"a": "SUCCESS"}, S.STARTED),
        (CHAIN, {"a": "SUCCESS", "b": "SUCCESS"}, S.SUCCESS),
        # The result of the first may have been forgotten; the last one's is the chain's.
        (CHAIN, {"b": "SUCCESS"}, S.SUCCESS),
        (CHAIN, {"a": "FAILURE"}, S.FAILURE),
        (CHAIN, {"a": "FAILURE", "b": "FAILURE"}, S.FAILURE),
        (CHAIN, {"a": "REVOKED"}, S.REVOKED),
        (GROUP, {"a": "SUCCESS"}, S.STARTED),
        (GROUP, {"a": "SUCCESS", "b": "SUCCESS"}, S.SUCCESS),
        (GROUP, {"a": "FAILURE", "b": "STARTED"}, S.FAILURE),
        (GROUP, {"a": "REVOKED", "b": "FAILURE"}, S.FAILURE),
        (GROUP, {"a": "SUCCESS", "b": "REVOKED"}, S.REVOKED),
        (CHORD, {"a": "SUCCESS", "b": "SUCCESS"}, S.STARTED),
        (CHORD, {"a": "SUCCESS", "b": "SUCCESS", "c": "SUCCESS"}, S.SUCCESS),
        (CHORD, {"a": "SUCCESS", "b": "FAILURE", "c": "FAILURE"}, S.FAILURE),
        # A revoked header fails the body, and with it what follows: echoes of the revocation.
        (CHORD, {"a": "REVOKED", "b": "SUCCESS", "c": "FAILURE"}, S.REVOKED),
        (CHORD, {"a": "REVOKED", "b": "FAILURE", "c": "FAILURE"}, S.FAILURE),
        (node("chain", CHORD, "d"), {"a": "REVOKED", "c": "FAILURE", "d": "FAILURE"}, S.REVOKED),
        (node("group", CHAIN, "c"), {"a": "SUCCESS", "c": "SUCCESS"}, S.STARTED),
        (node("group", CHAIN, "c"), {"b": "SUCCESS", "c": "SUCCESS"}, S.SUCCESS),
        (node("chain", "c", GROUP), {"c": "SUCCESS", "a": "SUCCESS"}, S.STARTED),
        (node("chain", "c", GROUP), {"c": "SUCCESS", "a": "FAILURE"}, S.FAILURE),
    ],
)
def test_the_state_of_a_workflow(tree: TaskNode, stored: dict[str, str], state: TaskState) -> None:
    assert look(tree, **stored).state is state


def test_results_have_the_shape_of_the_tree() -> None:
    done = {"a": "SUCCESS", "b": "SUCCESS", "c": "SUCCESS"}
    assert look(CHAIN, **done).result == "B"
    assert look(GROUP, **done).result == ["A", "B"]
    assert look(CHORD, **done).result == "C"
    assert look(node("group", CHAIN, "c"), **done).result == ["B", "C"]
    assert look(node("chain", "c", GROUP), **done).result == ["A", "B"]


def test_the_task_at_fault_is_the_first_that_failed() -> None:
    # Celery stores the failure of `a` for `b` as well, which never ran.
    assert task_at_fault(look(CHAIN, a="FAILURE", b="FAILURE")).id == "a"
    assert task_at_fault(look(CHORD, a="SUCCESS", b="FAILURE", c="FAILURE")).id == "b"
    assert task_at_fault(look(CHORD, a="REVOKED", b="SUCCESS", c="FAILURE")).id == "a"
    assert task_at_fault(look(node("group", "c", CHAIN), c="SUCCESS", a="SUCCESS", b="FAILURE")).id == "b"
    assert task_at_fault(look(GROUP, a="SUCCESS", b="REVOKED")).id == "b"


def test_a_workflow_is_finished_when_its_last_child_is() -> None:
    assert look(GROUP, a="SUCCESS").finished_at is None
    assert look(GROUP, a="SUCCESS", b="SUCCESS").finished_at == datetime(2030, 1, 1, 0, 0, 5, 500000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("tree", "stored", "stuck"),
    [
        (leaf("a"), {}, True),
        (leaf("a"), {"a": "STARTED"}, False),
        (leaf("a"), {"a": "SUCCESS"}, False),
        (CHAIN, {}, True),
        (CHAIN, {"a": "SUCCESS"}, True),
        (CHAIN, {"a": "STARTED"}, False),
        (CHAIN, {"a": "SUCCESS", "b": "SUCCESS"}, False),
        (GROUP, {"a": "SUCCESS"}, True),
        (GROUP, {"a": "STARTED"}, False),
        (GROUP, {"a": "FAILURE"}, False),
    ],
)
def test_stuck_is_unfinished_with_nothing_running(tree: TaskNode, stored: dict[str, str], stuck: bool) -> None:
    assert is_stuck(look(tree, **stored)) is stuck


STATES = st.sampled_from(["NONE", *(state.value for state in TaskState if state is not S.QUEUED)])


@st.composite
def trees(draw: st.DrawFn) -> tuple[TaskNode, dict[str, str]]:
    """Draw a tree of up to three levels, and what is stored for its leaves."""
    names = iter(f"t{n}" for n in range(1000))

    def grow(depth: int) -> TaskNode:
        if depth == 0 or draw(st.booleans()):
            return leaf(next(names))
        kind = draw(st.sampled_from(["chain", "group", "chord"]))
        return node(kind, *(grow(depth - 1) for _ in range(draw(st.integers(2, 3)))))

    tree = grow(3)
    return tree, {name.id: draw(STATES) for name in tree.leaves()}


@given(drawn=trees())
def test_states_are_honest_whatever_the_tree(drawn: tuple[TaskNode, dict[str, str]]) -> None:
    tree, stored = drawn
    status = look(tree, **stored)
    states = set(stored.values())
    if states == {"SUCCESS"}:
        assert status.state is S.SUCCESS
    if states == {"NONE"}:
        assert status.state is S.QUEUED
    if "FAILURE" not in states:
        assert status.state is not S.FAILURE
    if status.state in (S.FAILURE, S.REVOKED):
        assert stored[task_at_fault(status).id] == status.state
    if status.state is S.QUEUED:
        assert states == {"NONE"}
