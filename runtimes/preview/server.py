"""The server of the page: threads that never hold up the run, and not more of them than a device can bear."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import ThreadingHTTPServer
from typing import Any

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.asking.requests import Request
from brixel_edge.runtimes.preview.access import Access
from brixel_edge.runtimes.preview.address import PreviewAddress
from brixel_edge.runtimes.preview.handler import PreviewHandler
from brixel_edge.runtimes.preview.site import Site

# A browser takes up to six connections; each holds a thread of 64 KiB while it is open.
MOST_CONNECTIONS = 32
NAME = "brixel-preview"


class _Server(ThreadingHTTPServer):
    """Refuses connections over the bound, and says nothing of those that break."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Without asking name servers for the host's full name, which may take seconds and is used nowhere."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A viewer that goes away is no event; anything else is a fault of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Preview:
    """Serves a run's page; listens from its construction on, answers from `serve` on. Close it.

    Args:
        address: to listen at.
        request: takes what is asked of the run.
        report: gives the run's figures as JSON values; called in the server's threads.

    Attributes:
        site: what is shown.
        url: of the page, with its token.

    Raises:
        SpecError: nothing can be served there.
    """

    def __init__(
        self, address: PreviewAddress, request: Callable[[Request], None], report: Callable[[], dict[str, Any]]
    ) -> None:
        self.site = Site(request, report)
        try:
            self._server = _Server((address.host, address.port), None)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SpecError(
                f"--preview {address.host}:{address.port} cannot be served ({reason}); choose another HOST:PORT"
            ) from error
        port = self._server.server_address[1]
        access = Access(address.host, port, address.token)
        self._server.RequestHandlerClass = partial(PreviewHandler, site=self.site, access=access)
        host = f"[{address.host}]" if ":" in address.host else address.host
        self.url = f"http://{host}:{port}/" + (f"?token={address.token}" if address.token else "")
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name=NAME, daemon=True
        )

    def serve(self) -> None:
        """Begin to answer."""
        self._thread.start()

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks, so that a picture is worth painting."""
        return self.site.slot.is_watched

    def close(self) -> None:
        """Stop serving; a second call does nothing."""
        self.site.slot.close()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
