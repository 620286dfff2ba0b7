"""Addresses of streams: what may be shown of them, and what a library can read.

People type `rtsp://user:p/ss@host`, which no URL parser reads as they mean it. So a user name and password reach to the
last `@`, whatever they hold; where that is not clear, more is hidden rather than less.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

HIDDEN = "***"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(\S*)")
# A password with spaces; no other address may lie between it and its @.
_SPACED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@]*:(?:(?!://)[^@\n])*@")
# What was meant as an address, without `://`: user:password@host, rtsp:user:password@host.
_UNFINISHED = re.compile(r"(?<!\S)(['\"(]*)(?!\S*://)[^\s@]*:\S*@")
# Names under which cameras, services and GStreamer's elements take secrets.
_SECRET = re.compile(
    r"((?:^|[?&;/\s_])[\w-]*(?:user|usr|login|pass|pwd|pw|token|auth|key|secret|sig|cred|session)[\w-]*=)"
    r"(\"[^\"]*\"|'[^']*'|[^&;#\s\"']*)",
    re.IGNORECASE,
)


def label_from_address(text: str) -> str:
    """The address, or any line that holds some, without user names, passwords and tokens."""
    text = _URL.sub(_hide, _SPACED.sub(rf"\g<1>{HIDDEN}@", text))
    return _SECRET.sub(rf"\g<1>{HIDDEN}", _UNFINISHED.sub(rf"\g<1>{HIDDEN}@", text))


def address_for_libraries(url: str) -> str:
    """The URL with its user name and password percent-encoded, so that `p/ss` and `p@ss` reach the camera."""
    found = _URL.fullmatch(url)
    userinfo, rest = _split(found[2]) if found else (None, "")
    if found is None or userinfo is None:
        return url
    user, colon, password = userinfo.partition(":")
    # Unquoted first: who has already encoded it must not have it encoded twice.
    encoded = quote(unquote(user), safe="") + colon + quote(unquote(password), safe="")
    return f"{found[1]}{encoded}@{rest}"


def credentials(url: str) -> tuple[str, str] | None:
    """User name and password of a URL, decoded; None where it has none."""
    found = _URL.fullmatch(url)
    userinfo = _split(found[2])[0] if found else None
    if userinfo is None:
        return None
    user, _, password = userinfo.partition(":")
    return unquote(user), unquote(password)


def _split(rest: str) -> tuple[str | None, str]:
    """What follows `scheme://` as (user information, the rest)."""
    if not re.match(r"[^/?#@]*@|[^@]*:[^@]*@", rest):
        return None, rest
    userinfo, _, rest = rest.rpartition("@")
    return userinfo, rest


def _hide(found: re.Match[str]) -> str:
    userinfo, rest = _split(found[2])
    return found[1] + (f"{HIDDEN}@" if userinfo is not None else "") + rest
