"""Ids: what they say comes back, nothing else is believed, none is made twice."""

import subprocess
import sys
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_celery.task_ids import TaskIds

KEY = b"sixteen bytes ok"
SECONDS = st.integers(min_value=0, max_value=2**32 - 1)


@given(now=SECONDS, key=st.binary(min_size=16, max_size=64))
def test_what_an_id_says_comes_back(now: int, key: bytes) -> None:
    ids = TaskIds(key)
    task_id = ids.new(now)
    issued = ids.parse(task_id)
    assert issued is not None
    assert issued.issued_at == datetime.fromtimestamp(now, UTC)
    assert task_id.startswith(issued.prefix)
    uuid = UUID(task_id)
    assert (uuid.version, uuid.variant) == (8, "specified in RFC 4122")


@given(now=SECONDS, bit=st.integers(min_value=0, max_value=127))
def test_no_bit_can_be_flipped(now: int, bit: int) -> None:
    ids = TaskIds(KEY)
    assert ids.parse(str(UUID(int=UUID(ids.new(now)).int ^ 1 << bit))) is None


@given(now=SECONDS, other=st.binary(min_size=16, max_size=32).filter(lambda key: key != KEY))
def test_ids_of_another_key_are_foreign(now: int, other: bytes) -> None:
    assert TaskIds(other).parse(TaskIds(KEY).new(now)) is None


def test_replicas_and_later_processes_with_the_same_key_agree() -> None:
    assert TaskIds(KEY).parse(TaskIds(KEY).new()) is not None


@given(text=st.text() | st.uuids().map(str))
def test_anything_else_is_foreign(text: str) -> None:
    assert TaskIds(KEY).parse(text) is None


def test_children_share_the_prefix_and_are_no_ids_of_their_own() -> None:
    ids = TaskIds(KEY)
    children = {ids.child() for _ in range(1000)}
    assert len(children) == 1000
    for child in children:
        assert child.startswith(ids.prefix)
        assert str(UUID(child)) == child
        assert UUID(child).version == 4
        assert ids.parse(child) is None
    drawn = ["".join(sorted(set(digits))) for digits in zip(*children, strict=True)][len(ids.prefix) :]
    random = "0123456789abcdef"
    assert drawn == ["-", *[random] * 4, "-", "4", *[random] * 3, "-", "89ab", *[random] * 3, "-", *[random] * 12]
    assert ids.new().startswith(ids.prefix)


def test_only_the_canonical_spelling_is_an_id() -> None:
    ids = TaskIds(KEY)
    # One that has letters, so that upper case is another spelling.
    task_id = next(new for new in iter(ids.new, None) if new != new.upper())
    for spelling in (
        task_id.upper(),
        task_id.replace("-", ""),
        f"{{{task_id}}}",
        f"urn:uuid:{task_id}",
        f" {task_id}",
    ):
        assert UUID(spelling.strip()) == UUID(task_id)
        assert ids.parse(spelling) is None


def test_more_ids_than_a_second_has_counters_are_all_different() -> None:
    ids = TaskIds(KEY)
    many = 2**18 + 1000
    made = [ids.new(1_000_000_000) for _ in range(many)]
    assert len(set(made)) == many
    seconds = [
        issued.issued_at.timestamp()
        for issued in map(ids.parse, (made[0], made[2**18 - 1], made[2**18]))
        if issued
    ]
    assert seconds == [1_000_000_000, 1_000_000_000, 1_000_000_001]


def test_a_clock_that_goes_back_repeats_no_id() -> None:
    ids = TaskIds(KEY)
    made = [ids.new(now) for now in (1000, 999, 1000, 998, 1001, 1000)]
    assert len(set(made)) == len(made)
    assert [int(issued.issued_at.timestamp()) for issued in map(ids.parse, made) if issued] == [1000] * 4 + [
        1001
    ] * 2


def test_instances_have_prefixes_of_their_own() -> None:
    assert len({TaskIds(KEY).new(0)[:8] for _ in range(20)}) == 20


def test_a_forked_child_has_a_prefix_of_its_own() -> None:
    script = """
import os
from async_celery.task_ids import TaskIds
ids = TaskIds(b"sixteen bytes ok")
ids.new(), ids.child()
if os.fork() == 0:
    print(ids.new(), ids.child(), flush=True)
    os._exit(0)
os.wait()
print(ids.new(), ids.child())
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    new, child, new_of_parent, child_of_parent = run.stdout.split()
    assert new[:8] == child[:8]
    assert new_of_parent[:8] == child_of_parent[:8]
    assert new[:8] != new_of_parent[:8]
    assert child[8:] != child_of_parent[8:]


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 bytes"):
        TaskIds(b"too short")


def test_other_uuids_are_foreign() -> None:
    assert TaskIds(KEY).parse(str(uuid4())) is None
