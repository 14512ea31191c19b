"""Shared timers: each rings once, not too soon and hardly too late, unless it was cancelled."""

import asyncio
import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_celery.timers import Timers


class Loop:
    """A loop's clock and timers, moved by hand."""

    def __init__(self) -> None:
        self.now = 5.0
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: object, *args: object) -> asyncio.TimerHandle:
        self.timers.append(asyncio.TimerHandle(when, callback, args, self))  # type: ignore[arg-type]
        return self.timers[-1]

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self.timers.remove(handle)

    def get_debug(self) -> bool:
        return False

    def move(self, seconds: float) -> None:
        self.now += seconds
        for timer in sorted(self.timers, key=asyncio.TimerHandle.when):
            if timer.when() <= self.now and timer in self.timers:
                self.timers.remove(timer)
                timer._run()


class Waiter:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.rang: list[float] = []

    def give_up(self) -> None:
        self.rang.append(self.loop.now)


WITHIN = st.sampled_from([0.0, 0.001, 0.02, 1.0]) | st.floats(-0.1, 2)


@given(steps=st.lists(st.tuples(st.sampled_from(["set", "cancel", "move"]), WITHIN, st.integers(0, 20))))
def test_each_rings_once_when_it_is_due(steps: list[tuple[str, float, int]]) -> None:
    loop = Loop()
    timers: Timers[Waiter] = Timers(cast(asyncio.AbstractEventLoop, loop))
    waiting: dict[Waiter, tuple[int, float]] = {}  # with its mark, and when it is due
    cancelled: list[Waiter] = []
    for what, seconds, which in steps:
        if what == "set":
            waiter = Waiter(loop)
            waiting[waiter] = timers.set(waiter, seconds), loop.now + max(0.0, seconds)
        elif what == "cancel" and waiting:
            waiter = list(waiting)[which % len(waiting)]
            mark, _ = waiting.pop(waiter)
            rung = len(waiter.rang)
            timers.cancel(waiter, mark)
            timers.cancel(waiter, mark)
            cancelled += [waiter] if not rung else []
        elif what == "move":
            # No longer than the grain, for what is due is looked at after each.
            loop.move(max(0.0, seconds) / 100)
        for waiter, (_, due) in waiting.items():
            assert len(waiter.rang) <= 1
            assert all(rang >= due for rang in waiter.rang)
            assert waiter.rang or loop.now <= due + 0.0101 + 0.02
        assert not any(waiter.rang for waiter in cancelled)
        # One timer for each time at which somebody is due, and one more at the most.
        assert len(loop.timers) <= len({mark for waiter, (mark, _) in waiting.items() if not waiter.rang}) + 1


def test_a_thousand_share_a_few() -> None:
    loop = Loop()
    timers: Timers[Waiter] = Timers(cast(asyncio.AbstractEventLoop, loop))
    waiters = [Waiter(loop) for _ in range(1000)]
    for waiter in waiters:
        timers.set(waiter, 1.0)
    assert len(loop.timers) == 1
    loop.move(1.02)
    assert [len(waiter.rang) for waiter in waiters] == [1] * 1000
    assert loop.timers == []


@pytest.mark.parametrize("within", [math.inf, math.nan])
def test_what_is_no_time_is_refused(within: float) -> None:
    loop = Loop()
    timers: Timers[Waiter] = Timers(cast(asyncio.AbstractEventLoop, loop))
    with pytest.raises((OverflowError, ValueError)):
        timers.set(Waiter(loop), within)
    assert loop.timers == []
