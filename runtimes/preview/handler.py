"""The HTTP of the page: a few addresses, each checked for who asks before anything else."""

from __future__ import annotations

import http
import json
import secrets
import urllib.parse
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import cv2

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.preview.access import Access
from brixel_edge.runtimes.preview.metrics import CONTENT_TYPE, metrics_text
from brixel_edge.runtimes.preview.site import Site

PAGE = Path(__file__).with_name("page.html")
# How long a request for the next picture stays open, and a viewer that takes nothing is kept.
WAIT_S, _STUCK_S = 5.0, 10.0
_MOST_BODY_BYTES = 4096
_MOST_DIGITS = len(str(_MOST_BODY_BYTES))  # Python reads no number of thousands of them
_MOST_FRAME_DIGITS = 18
_SECURITY = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# The page's own script and style by their nonce, its own addresses, and nothing else from anywhere.
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PreviewHandler(BaseHTTPRequestHandler):
    """Answers one connection.

    Args:
        arguments: those of the server.
        site: what is served.
        access: who may ask.
    """

    protocol_version = "HTTP/1.1"
    timeout = _STUCK_S
    server_version, sys_version = "brixel-edge", ""

    def __init__(self, *arguments: Any, site: Site, access: Access) -> None:
        self._site, self._access = site, access
        super().__init__(*arguments)

    def log_message(self, format: str, *args: object) -> None:
        """Lines of progress are the run's."""

    def do_GET(self) -> None:
        """Pages, pictures and figures."""
        address = self._address()
        query = dict(urllib.parse.parse_qsl(address.query))
        if not self._is_allowed(address.path, query.get("token")):
            return
        answers = {
            "/": partial(self._page, query),
            "/frame.jpg": partial(self._frame, query),
            "/snapshot.png": self._snapshot,
            "/state": lambda: self._json(self._site.state()),
            "/healthz": self._health,
            "/metrics": self._metrics,
        }
        answers.get(address.path, partial(self._refuse, 404, "not here; see /"))()

    def do_POST(self) -> None:
        """A request of the page."""
        self.close_connection = True  # of what is refused, nothing more is read
        address = self._address()
        if not self._is_allowed(address.path, None):
            return
        if not self._access.is_own_page(self.headers):
            return self._refuse(403, "another page's requests change nothing here")
        length = self.headers.get("Content-Length", "")
        if address.path != "/requests" or self.headers.get_content_type() != "application/json":
            return self._refuse(404, "POST JSON to /requests")
        if not length.isdecimal() or len(length) > _MOST_DIGITS or int(length) > _MOST_BODY_BYTES:
            return self._refuse(413, f"at most {_MOST_BODY_BYTES} bytes")
        try:
            self._site.change(json.loads(self.rfile.read(int(length))))
        except (SpecError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            return self._refuse(400, str(error))
        return self._json({"done": True})

    def _address(self) -> urllib.parse.SplitResult:
        """What is asked for; what is no address is none of ours."""
        try:
            return urllib.parse.urlsplit(self.path)
        except ValueError:  # a host in brackets that are not closed
            return urllib.parse.urlsplit("?")

    def _is_allowed(self, path: str, token: str | None) -> bool:
        if not self._access.is_known_host(self.headers):
            self._refuse(421, "this is not the host that was asked for; use its address")
            return False
        # A supervisor may know whether it lives, and nothing more.
        if path != "/healthz" and not self._access.has_token(self.headers, token):
            self._refuse(401, "the token is missing or wrong; open the address that brixel-run printed")
            return False
        return True

    def _page(self, query: dict[str, str]) -> None:
        nonce = secrets.token_urlsafe(12)
        page = PAGE.read_text(encoding="utf-8").replace("{{nonce}}", nonce)
        headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce)}
        if "token" in query and self._access.needs_token:
            # From here on it is in the cookie; the page takes it out of its address.
            headers["Set-Cookie"] = self._access.new_cookie()
        self._send(200, page.encode(), "text/html; charset=utf-8", headers)

    def _frame(self, query: dict[str, str]) -> None:
        after = query.get("after", "")
        number = int(after) if after.isdecimal() and len(after) <= _MOST_FRAME_DIGITS else 0
        found = self._site.slot.newer_jpeg(number, self._viewer(query), WAIT_S)
        if found is None:
            return self._send(204, b"", "image/jpeg")
        return self._send(200, found[1], "image/jpeg", {"X-Frame": str(found[0])})

    def _snapshot(self) -> None:
        found = self._site.slot.newer(0, self._viewer({}), WAIT_S)
        if found is None:
            return self._refuse(503, "no frame yet")
        png = cv2.imencode(".png", found[1])[1].tobytes()
        return self._send(200, png, "image/png", {"Content-Disposition": 'inline; filename="brixel.png"'})

    def _health(self) -> None:
        is_well, health = self._site.health()
        told = health if self._access.has_token(self.headers, None) else {"state": health["state"]}
        self._json(told, 200 if is_well else 503)

    def _metrics(self) -> None:
        text = metrics_text(self._site.report(), self._site.matches, self._site.slot.viewers)
        self._send(200, text.encode(), CONTENT_TYPE)

    def _viewer(self, query: dict[str, str]) -> str:
        return query.get("viewer", "")[:16] or f"{self.client_address[0]} {self.client_address[1]}"

    def _json(self, record: object, status: int = 200) -> None:
        self._send(status, json.dumps(record, allow_nan=False).encode(), "application/json")

    def _refuse(self, status: int, line: str) -> None:
        self._send(status, f"{line}\n".encode(), "text/plain; charset=utf-8")

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(http.HTTPStatus(status))
        for name, value in {**_SECURITY, **(headers or {})}.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
