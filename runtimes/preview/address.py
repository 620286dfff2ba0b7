"""Where the page is served, and who may see it."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass, field

from brixel_edge.errors import SpecError

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8800
_TOKEN_BYTES = 18


@dataclass(frozen=True, kw_only=True)
class PreviewAddress:
    """Host and port to listen at.

    Attributes:
        host: name or IP address.
        port: 0 takes a free one.
        token: that every request must show; None where only this machine can ask.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token: str | None = field(default=None, repr=False)


def parse_address(text: str) -> PreviewAddress:
    """Read `HOST:PORT`, `HOST`, `:PORT` or nothing; anything but loopback gets a token of its own.

    Raises:
        SpecError: something else.
    """
    host, colon, port_text = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port_text = (text, "") if not port_text.isdecimal() else ("", port_text)
    port = int(port_text) if port_text.isascii() and port_text.isdecimal() else (None if port_text else DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]") or DEFAULT_HOST
    if port is None or port > 65535 or any(sign in host for sign in "/@? \\"):
        raise SpecError(
            f"--preview {text} is not HOST:PORT, for instance 127.0.0.1:8800 or 0.0.0.0:8800; a model goes before it"
        )
    return PreviewAddress(
        host=host, port=port, token=None if is_loopback(host) else secrets.token_urlsafe(_TOKEN_BYTES)
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
