"""A TCP proxy that stalls, cuts, throttles and half-opens."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time

CHUNK_BYTES = 4096


class Wire:
    """Listens on `port` and passes on to another one.

    Attributes:
        is_stalled: nothing goes through, and nothing is closed.
        is_half_open: new connections are taken and never answered.
        bytes_per_s: what goes through towards the client; None for all.
    """

    def __init__(self, target_port):
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.is_stalled = self.is_half_open = False
        self.bytes_per_s = None
        self._sockets = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            target = self._hold if self.is_half_open else self._serve
            threading.Thread(target=target, args=(client,), daemon=True).start()

    def _hold(self, client):
        with contextlib.suppress(OSError), client:
            while client.recv(CHUNK_BYTES):
                pass

    def _serve(self, client):
        try:
            server = socket.create_connection(("127.0.0.1", self._target_port))
        except OSError:
            client.close()
            return
        self._sockets.append(server)
        with contextlib.suppress(OSError, ValueError), client, server, selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select(0.1):
                    while self.is_stalled:
                        time.sleep(0.01)
                    data = key.fileobj.recv(CHUNK_BYTES)
                    if not data:
                        return
                    key.data.sendall(data)
                    if self.bytes_per_s and key.data is client:
                        time.sleep(len(data) / self.bytes_per_s)

    def cut(self):
        """End every connection; the threads that serve them see it and close them."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.is_stalled = False
        self._listener.close()
        self.cut()
