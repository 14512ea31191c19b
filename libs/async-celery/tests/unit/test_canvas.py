"""Freezing: the tree of ids, and the copy that carries them. What Celery makes of it, integration tests show."""

import json
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import Signature
from hypothesis import given
from hypothesis import strategies as st

from async_celery.canvas import freeze
from async_celery.errors import PayloadError
from async_celery.types import NodeKind, TaskNode, TaskRecord

APP = Celery(set_as_current=False)
_numbers = count()
EXPIRES = "2030-01-01T00:00:00+00:00"


def task(name: str, **options: Any) -> "Signature[Any]":
    return APP.signature(name, options=options)


def frozen(canvas: Any) -> tuple[Any, TaskNode]:
    return freeze(
        canvas, APP, workflow_id="whole", expires=EXPIRES, new_child_id=lambda: f"child-{next(_numbers)}"
    )


def shape(node: TaskNode) -> Any:
    """Return a tree as nested tuples: (kind, id if it is the whole's, *children)."""
    mark = "*" if node.id == "whole" else ""
    if node.kind is NodeKind.TASK:
        return node.name + mark
    return (f"{node.kind}{mark}", *(shape(child) for child in node.children))


def test_the_id_of_the_whole_goes_to_its_result() -> None:
    a, b, c = task("a"), task("b"), task("c")
    steps: Any = [group(a, b), c]
    nested: Any = [a, chain(b, c)]
    for canvas, expected in (
        (a, "a*"),
        (chain(a, b, c), ("chain*", "a", "b", "c*")),
        (chain(nested, app=APP), ("chain*", "a", "b", "c*")),
        (group(a, b), ("group*", "a", "b")),
        (group([group(a, b), c]), ("group*", "a", "b", "c")),
        (chord([a, b], c), ("chord*", "a", "b", "c*")),
        (chain(steps, app=APP), ("chord*", "a", "b", "c*")),
        (chain(a, group(b, c)), ("chain*", "a", ("group*", "b", "c"))),
        (group(chain(a, b), c), ("group*", ("chain", "a", "b"), "c")),
        (chord([a, b], group(b, c)), ("chord*", "a", "b", ("group*", "b", "c"))),
    ):
        _, tree = frozen(canvas)
        assert shape(tree) == expected


def test_every_task_has_an_id_of_its_own_and_the_deadline() -> None:
    a = task("a")
    copy, tree = frozen(group(a, a, task("b", expires="2029-01-01T00:00:00+00:00")))
    ids = [leaf.id for leaf in tree.leaves()]
    assert len(set(ids)) == 3
    assert all(id_.startswith("child-") for id_ in ids)
    assert [member.options["task_id"] for member in copy.tasks] == ids
    assert copy.options["task_id"] == "whole"
    # One with an earlier deadline keeps it.
    assert [member.options["expires"] for member in copy.tasks] == [EXPIRES, EXPIRES, "2029-01-01T00:00:00+00:00"]


def test_the_copy_is_bound_to_our_app_and_the_canvas_is_left_alone() -> None:
    other = Celery(set_as_current=False)
    canvas = group(
        Signature("unbound", queue="q"), other.signature("foreign"), chord([other.signature("x")], Signature("y"))
    )
    before = repr(dict(canvas))
    copy, _ = frozen(canvas)
    assert repr(dict(canvas)) == before
    unbound, foreign, inner = copy.tasks
    signatures = [copy, unbound, foreign, inner, inner.body, *inner.tasks]
    assert [signature.app for signature in signatures] == [APP] * 6
    assert unbound.options["queue"] == "q"


def test_a_canvas_may_be_its_own_dict() -> None:
    canvas = chord([task("a")], task("b"))
    plain = {**canvas, "kwargs": {**canvas["kwargs"], "body": dict(canvas["kwargs"]["body"])}}
    _, tree = frozen(plain)
    assert shape(tree) == ("chord*", "a", "b*")


def test_traces_of_an_earlier_run_are_removed_and_options_kept() -> None:
    used = task(
        "a", queue="q", priority=3, task_id="old", group_id="old", chord=task("b"), root_id="old", reply_to="old"
    )
    copy, tree = frozen(used)
    assert copy.options == {
        "queue": "q",
        "priority": 3,
        "task_id": "whole",
        "root_id": "whole",
        "expires": EXPIRES,
    }
    assert tree.id == "whole"


@pytest.mark.parametrize(
    "nothing", [group([]), chord([], task("a")), chord([task("a")]), {}, None, "a", {"task": "a"}], ids=repr
)
def test_what_cannot_run_is_refused(nothing: Any) -> None:
    with pytest.raises(PayloadError):
        frozen(nothing)


def test_a_record_survives_its_encoding() -> None:
    _, tree = frozen(group(chain(task("a"), task("b")), chord([task("c")], task("d"))))
    record = TaskRecord(
        accepted_at=datetime(2030, 1, 1, 12, tzinfo=UTC), deadline=datetime(2030, 1, 1, 13, tzinfo=UTC), tree=tree
    )
    assert TaskRecord.decode(record.encode()) == record
    assert TaskRecord.decode(record.encode().encode()) == record


@given(id_=st.text(), name=st.text())
def test_a_record_is_the_json_that_python_writes(id_: str, name: str) -> None:
    leaf = {"kind": "task", "id": id_, "name": name, "children": []}
    whole = {"kind": "group", "id": id_, "name": "group", "children": [leaf, leaf]}
    assert TaskNode.from_json(whole).to_json() == json.dumps(whole)
