"""A TCP proxy on loopback that stands between an API and a server, and can fall silent in one direction."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class Proxy:
    """Passes on what clients and server say to each other; what it holds back is never delivered."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self._to_server, self._to_clients = threading.Event(), threading.Event()
        self.port = str(self._listener.getsockname()[1])
        self.speak()
        threading.Thread(target=self._accept).start()

    def speak(self) -> None:
        """Pass everything on, from now on."""
        self._to_server.set()
        self._to_clients.set()

    def keep_from_server(self) -> None:
        """Hold back what clients say."""
        self._to_server.clear()

    def keep_from_clients(self) -> None:
        """Hold back what the server says: it does what it is told, and nobody hears of it."""
        self._to_clients.clear()

    def cut(self) -> None:
        """Drop the connections there are, with what was held back; new ones are served."""
        for connected in self._sockets[1:]:
            self._end(connected)
        del self._sockets[1:]

    def close(self) -> None:
        self._end(self._listener)
        self.cut()

    def _end(self, connected: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)
        connected.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                threading.Thread(target=self._pass_on, args=(client, server, self._to_server)).start()
                threading.Thread(target=self._pass_on, args=(server, client, self._to_clients)).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, flows: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while not flows.wait(0.05):
                    sink.getpeername()  # fails once it was cut
                sink.sendall(data)
        self._end(source)
        self._end(sink)


@contextlib.contextmanager
def proxy_to(port: str) -> Iterator[Proxy]:
    proxy = Proxy(int(port))
    try:
        yield proxy
    finally:
        proxy.speak()
        proxy.close()
