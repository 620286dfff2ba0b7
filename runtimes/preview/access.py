"""Who may ask: the token, the host that was asked for, the page that asks.

A page of another origin that the user happens to have open can send requests to this machine, too. It cannot read the
answers, unless its name is made to point here (DNS rebinding): hence the check of `Host`, which then is that name.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from email.message import Message
from http.cookies import CookieError, SimpleCookie

_OWN_SITES = ("same-origin", "none")


class Access:
    """Decides on requests.

    Args:
        host: that is listened at.
        port: that is listened at.
        token: None where none is needed.
    """

    def __init__(self, host: str, port: int, token: str | None) -> None:
        self.cookie = f"brixel_{port}"  # cookies know no ports
        self._token = token
        name = socket.gethostname().lower()
        self._names = {"localhost", host.lower(), name, f"{name}.local"}

    @property
    def needs_token(self) -> bool:
        """Whether a token must be shown."""
        return self._token is not None

    def is_known_host(self, headers: Message) -> bool:
        """Whether `Host` is an IP address or one of our names; a foreign name has been pointed here."""
        asked = headers.get("Host", "").lower()
        name = asked[: asked.find("]") + 1] if asked.startswith("[") else asked.partition(":")[0]
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in self._names
        return True

    def has_token(self, headers: Message, given: str | None) -> bool:
        """Whether the token is in the address, the cookie or the `Authorization` header, if one is needed."""
        if self._token is None:
            return True
        bearer = headers.get("Authorization", "").removeprefix("Bearer ")
        # Compared as a whole, each: what differs first must not show in the time.
        shown = (given or "", bearer, self._cookie(headers))
        return any([hmac.compare_digest(one.encode(), self._token.encode()) for one in shown])

    def is_own_page(self, headers: Message) -> bool:
        """Whether something that changes the run is asked by our page, or by no page at all."""
        origin = headers.get("Origin")
        is_own = origin is None or origin.partition("://")[2].lower() == headers.get("Host", "").lower()
        return is_own and headers.get("Sec-Fetch-Site", "none") in _OWN_SITES

    def new_cookie(self) -> str:
        """The `Set-Cookie` of who has shown the token."""
        return f"{self.cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"

    def _cookie(self, headers: Message) -> str:
        try:
            found = SimpleCookie(headers.get("Cookie", "")).get(self.cookie)
        except CookieError:
            return ""
        return found.value if found is not None else ""
