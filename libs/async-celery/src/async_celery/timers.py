"""Timers for very many, most of which never ring.

How it works: a timer of the loop goes into a heap, and lies there, cancelled, until enough others do: that is a
tenth of all that a round trip costs a process. Here those that are due within the same 10 ms share one. It is
cancelled when the last of them is; the newest only when there is a newer one, for the next may be due with it.

What belongs here: when to ring. What for, the caller knows.
"""

import asyncio
from typing import Generic, Protocol, TypeVar

_GRAIN = 0.01  # s; by how much one may ring late


class _Rings(Protocol):
    def give_up(self) -> None: ...


R = TypeVar("R", bound=_Rings)


class _Due(dict[R, None]):
    """Those that are due at one time, and the timer of the loop for them."""

    timer: asyncio.TimerHandle


class Timers(Generic[R]):
    """Calls `give_up` of what is due; belongs to one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with none."""
        self._loop = loop
        self._due: dict[int, _Due[R]] = {}
        self._newest = 0

    def set(self, one: R, within: float) -> int:
        """Have one ring in so many s, never sooner; return the mark by which to cancel it.

        Raises:
            OverflowError, ValueError: that is no time: infinite, or none at all.
        """
        mark = int((self._loop.time() + within) / _GRAIN) + 1
        due = self._due.get(mark)
        if due is None:
            due = self._due[mark] = _Due()
            due.timer = self._loop.call_at(mark * _GRAIN, self._ring, mark)
            former, self._newest = self._newest, mark
            self._drop_if_empty(former)
        due[one] = None
        return mark

    def cancel(self, one: R, mark: int) -> None:
        """Forget one, whether it has rung or not."""
        due = self._due.get(mark)
        if due is not None:
            due.pop(one, None)
            if mark != self._newest:
                self._drop_if_empty(mark)

    def _drop_if_empty(self, mark: int) -> None:
        due = self._due.get(mark)
        if due is not None and not due:
            due.timer.cancel()
            del self._due[mark]

    def _ring(self, mark: int) -> None:
        for one in self._due.pop(mark):
            one.give_up()
