"""What is kept of what was pushed, against a model that forgets nothing."""

from hypothesis import given
from hypothesis import strategies as st

from async_celery.heard import _LARGEST, _OVERHEAD, Heard

# An empty payload stands for a large one, which hypothesis would warn of before it prints it.
LARGE = b"x" * (_LARGEST + 1)
EVENTS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.binary(min_size=1, max_size=300)) | st.just(("large", b"")) | st.none(),
    max_size=60,
)


@given(events=EVENTS, room=st.integers(0, 3000), since=st.integers(0, 60))
def test_what_it_claims_to_know_is_all_there_was(
    events: list[tuple[str, bytes] | None], room: int, since: int
) -> None:
    heard, pushed, mark, missed = Heard(room=room), dict[str, bytes](), 0, False
    for number, event in enumerate(events):
        if number == since:
            mark, pushed, missed = heard.mark, {}, False
        if event is None:
            heard.miss()
            missed = True
        else:
            task_id, payload = event
            heard.note(task_id, payload or LARGE)
            pushed[task_id] = payload
        kept = sum(_OVERHEAD + len(payload) for _, payload in heard._kept.values())
        assert kept <= room
        assert heard._room == room - kept
    if heard.knows_since(mark):
        assert not missed
        assert {task_id: heard.latest(task_id) for task_id in pushed} == pushed
    assert heard.knows_since(heard.mark)
    assert heard.latest("never pushed") is None


def test_it_knows_as_long_as_there_is_room() -> None:
    heard = Heard(room=3 * (_OVERHEAD + 10))
    for number in range(3):
        heard.note(str(number), b"0123456789")
    assert heard.knows_since(0)
    # Of a task only the latest counts, and it is the newest now.
    heard.note("0", b"0123456789")
    assert heard.knows_since(0)
    heard.note("3", b"0123456789")
    assert (heard.latest("1"), heard.knows_since(1), heard.knows_since(2)) == (None, False, True)
    assert heard.latest("0") == b"0123456789"
