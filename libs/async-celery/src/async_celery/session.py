"""One connection to the broker as the publisher uses it, from login to loss.

How it works: messages go out on a channel of their own, and are confirmed there. Queues are declared on a second
channel, once per connection, just before the first message that needs them, which waits for that; requests that
the broker refuses close only this channel. When the broker closes the publishing channel because of one message,
it discards all that follow it. It names the exchange, if that is what is wrong: then the messages for it fail.
Otherwise every unconfirmed message is under suspicion, and sent again one at a time, on a third channel: what
closes that one is known. Everything else goes back to the publisher, to be sent again.

What belongs here: what happens within one connection. Deadlines, reconnecting and who may send are
`publisher.py`'s.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from async_celery import amqp
from async_celery.errors import Nacked, PayloadError, PublishError, Unroutable
from async_celery.message import Place
from async_celery.topology import Topology

_PUBLISHING, _CONTROL, _SUSPECTS = amqp.PUBLISHING, 2, 3
"""Channel numbers."""
_EXCHANGE = re.compile(r"exchange '([^']*)'")
_DEFAULT_EXCHANGE = "amq.default"
"""How the broker calls the exchange without a name."""


class Letter:
    """A message on its way: where it goes, and its frames, once it is encoded.

    `future` ends with None or an error; `sent`: the broker may have it by now.
    """

    __slots__ = ("deadline", "frames", "future", "place", "queue", "sent", "task", "task_id")

    place: Place

    def __init__(
        self, task_id: str | None, task: str | None, queue: str, future: "asyncio.Future[None]", deadline: float
    ) -> None:
        """Take whose it is, who waits for it, and until when.

        Args:
            task_id: None for what is no task: a revoke.
            task: its name, None as above.
            queue: where it is meant to go.
            future: ends when it has ended.
            deadline: in s of the loop's time.
        """
        self.task_id = task_id
        self.task = task
        self.queue = queue
        self.future = future
        self.deadline = deadline
        self.frames = b""
        self.sent = False

    def fail(self, error: Exception) -> None:
        """End it with an error, unless it has ended."""
        if not self.future.done():
            self.future.set_exception(error)


class Session:
    """One connection; made by `open`.

    Attributes: `has_confirmed`, whether it was good for anything.
    """

    def __init__(
        self,
        connection: amqp.Connection,
        *,
        max_in_flight: int,
        give_back: Callable[[Iterable[Letter]], None],
        on_progress: Callable[[], None],
    ) -> None:
        """Use `open`."""
        self.has_confirmed = False
        self._connection = connection
        self._max_in_flight = max_in_flight
        self._give_back = give_back
        self._on_progress = on_progress
        self._channel = self._new_confirm_channel(_PUBLISHING)
        self._suspects_channel: amqp.ConfirmChannel[Letter] | None = None
        self._control = amqp.Channel(connection, _CONTROL)
        self._control_turn = asyncio.Lock()
        self._declared: set[Topology] = set()
        self._parked: dict[Topology, list[Letter]] = {}
        self._suspects: deque[Letter] = deque()
        self._only_suspects = False
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls,
        endpoint: amqp.Endpoint,
        client_properties: dict[str, Any],
        *,
        max_in_flight: int,
        give_back: Callable[[Iterable[Letter]], None],
        on_progress: Callable[[], None],
    ) -> "Session":
        """Connect, and open the channels.

        Args:
            endpoint: where to.
            client_properties: what the broker shows of us.
            max_in_flight: how many messages may be unconfirmed.
            give_back: takes messages that are to be given to `take` again.
            on_progress: called when there may be room again, or `blocked` has changed.

        Raises:
            ConnectionLost, LoginRefused: there is no connection.
        """
        connection = await amqp.Connection.connect(endpoint, client_properties)
        session = cls(connection, max_in_flight=max_in_flight, give_back=give_back, on_progress=on_progress)
        try:
            async with asyncio.timeout(endpoint.connect_timeout):
                await asyncio.gather(session._channel.open(), session._control.open())
        except (TimeoutError, amqp.ChannelClosed) as exc:
            connection.abort("no channel could be opened")
            raise amqp.ConnectionLost(f"{endpoint} opens no channel: {exc or 'no answer'}") from exc
        except BaseException:
            connection.abort("connecting was given up")
            raise
        session._watch_channel()
        connection.on_progress = on_progress
        return session

    @property
    def blocked(self) -> str | None:
        """The broker's reason for taking no messages now, or None."""
        return self._connection.blocked

    def take(self, letters: Sequence[Letter]) -> int:
        """Publish with the next `flush`, or when what they need has been declared; return how many.

        They are the first ones; the others are to come again.
        """
        connection, channel = self._connection, self._channel
        if connection.blocked is not None or self._only_suspects or channel.closed.done():
            return 0
        room = self._max_in_flight - len(channel.unconfirmed)
        if self._parked:
            room -= sum(map(len, self._parked.values()))
        taken = 0
        for letter in letters:
            if taken >= room or not connection.writable:
                break
            topology = letter.place.topology
            if topology in self._declared:
                self._publish(channel, letter)
            elif topology in self._parked:
                self._parked[topology].append(letter)
            else:
                self._parked[topology] = [letter]
                self._start(self._declare(topology))
            taken += 1
        return taken

    def flush(self) -> None:
        """Write what was taken."""
        self._connection.flush()

    def unfinished(self) -> list[Letter]:
        """Return what was taken and has not ended, in the order in which it was taken; after `end`."""
        parked = [letter for letters in self._parked.values() for letter in letters]
        letters = [*self._channel.unconfirmed.values(), *self._suspects, *parked]
        return [letter for letter in letters if not letter.future.done()]

    def try_first(self, letters: Iterable[Letter]) -> None:
        """Send these one at a time, and nothing else before all of them have ended; to be called first.

        One of them made the broker close the last connection. When it does so again, it is the only one there.
        """
        self._suspects += letters
        self._only_suspects = True
        self._start(self._try_suspects())

    async def end(self) -> amqp.ConnectionLost:
        """Wait until the connection is lost, and all is settled that this settles; return the reason."""
        await asyncio.wait((self._connection.lost,))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return self._connection.lost.result()

    async def ping(self) -> None:
        """Make a round trip.

        Raises:
            ConnectionLost, ChannelClosed: it failed.
        """
        await self._request([amqp.PING])

    async def close(self, within: float) -> None:
        """End the connection, politely if the broker answers.

        Args:
            within: in s, how long to wait for that.
        """
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if self._channel.unconfirmed or tasks:
            # It owes answers whose deadlines have passed: it will not answer this either.
            self._connection.abort("closed by the client")
        else:
            await self._connection.close(within)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Publishing.

    def _new_confirm_channel(self, number: int) -> "amqp.ConfirmChannel[Letter]":
        return amqp.ConfirmChannel(
            self._connection,
            number,
            on_settled=self._on_settled,
            on_returned=self._on_returned,
            id_of=_task_id,
        )

    def _publish(self, channel: "amqp.ConfirmChannel[Letter]", letter: Letter) -> None:
        try:
            channel.publish(letter, letter.frames)
        except ValueError as exc:
            letter.fail(PayloadError(f"the message cannot be sent: {exc}"))
        else:
            letter.sent = True

    def _on_settled(self, letter: Letter, ack: bool) -> None:
        future = letter.future
        if future.done():
            return
        if ack:
            self.has_confirmed = True
            future.set_result(None)
        else:
            future.set_exception(
                Nacked("the broker refused the message: its queue is full", task_id=letter.task_id)
            )

    def _on_returned(self, letter: Letter, text: str) -> None:
        # The queue was there, and has gone.
        self._declared.discard(letter.place.topology)
        letter.fail(
            Unroutable(
                f"no queue for {letter.place.routing_key!r} ({text}): send again, it will be declared anew",
                task_id=letter.task_id,
            )
        )

    # Requests.

    async def _request(self, requests: Iterable[amqp.Method]) -> None:
        async with self._control_turn:
            if self._control.closed.done():
                self._control = amqp.Channel(self._connection, _CONTROL)
                await self._control.open()
            await self._control.call(*requests)

    async def _declare(self, topology: Topology) -> None:
        try:
            await self._request(topology.requests)
        except amqp.ConnectionLost:
            return  # `unfinished` has the messages
        except amqp.ChannelClosed as exc:
            for letter in self._parked.pop(topology):
                letter.fail(
                    PublishError(f"the broker does not declare {topology}: {exc}", task_id=letter.task_id)
                )
        else:
            self._declared.add(topology)
            self._give_back(self._parked.pop(topology))

    # Channels closed because of a message.

    def _watch_channel(self) -> None:
        self._channel.closed.add_done_callback(self._on_channel_closed)

    def _on_channel_closed(self, closed: "asyncio.Future[amqp.ChannelClosed | amqp.ConnectionLost]") -> None:
        """Find who is to blame, and have the others sent again."""
        reason = closed.result()
        if isinstance(reason, amqp.ConnectionLost):
            return
        letters = [letter for letter in self._channel.unconfirmed.values() if not letter.future.done()]
        self._channel.unconfirmed.clear()
        named = _EXCHANGE.search(reason.text)
        if named is None:
            if not self._suspects and letters:
                self._start(self._try_suspects())
            self._suspects += letters
        else:
            exchange = "" if named[1] == _DEFAULT_EXCHANGE else named[1]
            for letter in letters:
                if letter.place.exchange == exchange:
                    self._blame(letter, reason)
            self._give_back(letter for letter in letters if letter.place.exchange != exchange)
        self._start(self._reopen())

    async def _reopen(self) -> None:
        channel = self._new_confirm_channel(_PUBLISHING)
        try:
            await channel.open()
        except amqp.ChannelClosed as exc:
            self._connection.abort(f"no channel could be opened: {exc}")
        except amqp.ConnectionLost:
            pass  # `end` says so
        else:
            self._channel = channel
            self._watch_channel()
            self._on_progress()

    async def _try_suspects(self) -> None:
        try:
            while self._suspects:
                if not self._suspects[0].future.done():
                    await self._try(self._suspects[0])
                self._suspects.popleft()
        except amqp.ConnectionLost:
            pass  # `unfinished` has the others
        except amqp.ChannelClosed as exc:
            self._connection.abort(f"no channel could be opened: {exc}")
        else:
            self._only_suspects = False
            self._on_progress()

    async def _try(self, suspect: Letter) -> None:
        channel = self._suspects_channel
        if channel is None or channel.closed.done():
            channel = self._new_confirm_channel(_SUSPECTS)
            await channel.open()
            self._suspects_channel = channel
        self._publish(channel, suspect)
        self._connection.flush()
        await asyncio.wait((suspect.future, channel.closed), return_when=asyncio.FIRST_COMPLETED)
        if channel.closed.done():
            reason = channel.closed.result()
            if isinstance(reason, amqp.ChannelClosed):
                self._blame(suspect, reason)
                return
            if isinstance(reason, amqp.ConnectionBroken) and self._only_suspects:
                self._blame(suspect, reason)
            raise reason

    def _blame(self, letter: Letter, reason: amqp.ChannelClosed | amqp.ConnectionLost) -> None:
        self._declared.discard(letter.place.topology)
        letter.fail(PublishError(f"the broker refuses the message: {reason}", task_id=letter.task_id))


def _task_id(letter: Letter) -> str | None:
    return letter.task_id
