"""Why a network stream does not open: asked of its server directly, after a library has failed.

FFmpeg tells its reasons to stderr alone. One connection and a request, RTSP's DESCRIBE or HTTP's GET, tell them apart.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import threading
import time
from base64 import b64encode
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from brixel_edge.machine.addresses import address_for_libraries, credentials

FailureKind = Literal["not found", "refused", "authentication", "timeout", "codec", "end"]
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "tcp": 0}
_ANSWER_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why something does not open.

    Attributes:
        kind: its class.
        reason: for people: "is not there: ...".
    """

    kind: FailureKind
    reason: str


TIMED_OUT = Failure(kind="timeout", reason="does not answer in time; is it on, is the address right?")
_REFUSED = Failure(kind="refused", reason="refuses the connection; is the port right, is its server running?")
_NO_HOST = Failure(kind="not found", reason="has no such host; is the name right, is there a network?")
_CODEC = Failure(kind="codec", reason="answers, but with nothing that can be decoded here")


def diagnose(url: str, timeout_s: float) -> Failure:
    """Ask the server of a URL why it does not open.

    Args:
        url: as the user gave it.
        timeout_s: bound on the whole.
    """
    found: list[Failure] = []
    # In a thread, since nothing bounds the time that looking up a name takes.
    thread = threading.Thread(target=lambda: found.append(_diagnosed(url, timeout_s)), name="diagnosis", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return found[0] if found else TIMED_OUT


def _diagnosed(url: str, timeout_s: float) -> Failure:
    deadline_s = time.monotonic() + timeout_s
    try:
        return _asked(address_for_libraries(url), url, deadline_s)
    except socket.gaierror:
        return _NO_HOST
    except ConnectionRefusedError:
        return _REFUSED
    except (TimeoutError, socket.timeout):  # noqa: UP041 - two classes in Python 3.10's ssl
        return TIMED_OUT
    except ConnectionError:
        return Failure(kind="end", reason="closes the connection without an answer")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such address"
        return Failure(kind="not found", reason=f"cannot be reached: {reason}")


def _asked(encoded: str, url: str, deadline_s: float) -> Failure:
    parts = urlsplit(encoded)
    scheme = parts.scheme.lower()
    port = parts.port or _PORTS.get(scheme, 0)
    if not parts.hostname or not port:
        return _CODEC if scheme in ("udp", "rtp", "srt") else _NO_HOST
    with socket.create_connection((parts.hostname, port), timeout=_left(deadline_s)) as plain:
        if scheme not in ("rtsp", "rtsps", "http", "https"):
            return _CODEC
        connection = _encrypted(plain, parts.hostname) if scheme in ("rtsps", "https") else plain
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        query = f"?{parts.query}" if parts.query else ""
        path = (parts.path or "/") + query
        if scheme.startswith("rtsp"):
            target, verb = f"{scheme}://{host}:{port}{parts.path}{query}", "DESCRIBE {} RTSP/1.0\r\nCSeq: {}\r\n"
        else:
            target, verb = path, f"GET {{}} HTTP/1.1\r\nHost: {host}:{port}\r\nX-Request: {{}}\r\n"
        login = credentials(url)
        answer = _request(connection, verb.format(target, 1), deadline_s)
        if _status(answer) == 401 and login is not None:
            authorization = _authorization(answer, login, verb.partition(" ")[0], target)
            # A server of HTTP may have closed; a camera's RTSP has not.
            if scheme.startswith("http"):
                with socket.create_connection((parts.hostname, port), timeout=_left(deadline_s)) as again:
                    other = _encrypted(again, parts.hostname) if scheme == "https" else again
                    answer = _request(other, verb.format(target, 2) + authorization, deadline_s)
            else:
                answer = _request(connection, verb.format(target, 2) + authorization, deadline_s)
    return _failure(_status(answer), login is not None)


def _left(deadline_s: float) -> float:
    return max(0.05, deadline_s - time.monotonic())


def _encrypted(connection: socket.socket, host: str) -> socket.socket:
    # Cameras sign their certificates themselves; FFmpeg does not check them either, and nothing secret is answered.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection, server_hostname=host)


def _request(connection: socket.socket, head: str, deadline_s: float) -> str:
    connection.settimeout(_left(deadline_s))
    connection.sendall((head + "User-Agent: brixel-edge\r\nAccept: */*\r\n\r\n").encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _ANSWER_BYTES:
        connection.settimeout(_left(deadline_s))
        part = connection.recv(_ANSWER_BYTES)
        if not part:
            break
        answer += part
    if not answer:
        raise ConnectionResetError
    return answer.decode("latin-1")


def _status(answer: str) -> int:
    found = re.match(r"(?:RTSP|HTTP)/\d\.\d (\d{3})", answer)
    return int(found[1]) if found else 0


def _authorization(answer: str, login: tuple[str, str], verb: str, target: str) -> str:
    """The header that a challenge asks for, Digest (RFC 2617) or Basic."""
    user, password = login
    found = re.search(r"^WWW-Authenticate:\s*Digest\s+(.*)$", answer, re.IGNORECASE | re.MULTILINE)
    if found is None:
        return f"Authorization: Basic {b64encode(f'{user}:{password}'.encode()).decode()}\r\n"
    fields = dict(re.findall(r'(\w+)="([^"]*)"', found[1]))
    realm, nonce = fields.get("realm", ""), fields.get("nonce", "")
    secret, asked = _md5(f"{user}:{realm}:{password}"), _md5(f"{verb}:{target}")
    head = f'Authorization: Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{target}", '
    if "auth" in fields.get("qop", "") or re.search(r"qop=\"?auth", found[1]):
        response = _md5(f"{secret}:{nonce}:00000001:b7:auth:{asked}")
        return f'{head}qop=auth, nc=00000001, cnonce="b7", response="{response}"\r\n'
    return f'{head}response="{_md5(f"{secret}:{nonce}:{asked}")}"\r\n'


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _failure(status: int, has_login: bool) -> Failure:
    if status in (401, 403):
        asked = "refuses this user name and password" if has_login else "asks for a user name and password"
        return Failure(kind="authentication", reason=f"{asked}, which stand before the host as USER:PASSWORD@")
    if status in (404, 410):
        return Failure(kind="not found", reason="has no such stream; is the path right?")
    if status in (408, 504):
        return TIMED_OUT
    if status >= 400:
        return Failure(kind="refused", reason=f"answers with error {status}")
    return _CODEC
