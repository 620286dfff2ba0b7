"""A server of one file on this machine, whose first answer breaks off."""

from __future__ import annotations

import hashlib
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Gives one file under every address, in ranges; its first answer breaks off in the middle.

    Attributes:
        content: the file.
        asked_from: first byte of every request for content, in order.
        shown: permission of every such request.
        is_gone: there is no such file any more.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.asked_from, self.shown, self.is_gone = content, [], [], False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    @property
    def version(self):
        return f'"{hashlib.sha256(self.server.content).hexdigest()}"'

    def headers_of(self, start):
        content = self.server.content
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Disposition", 'attachment; filename="model.safetensors"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", self.version)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()

    def do_GET(self):
        if self.server.is_gone:
            self.send_error(404)
            return
        found = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, self.version)
        start = int(found[1]) if found and same else 0
        self.server.shown.append(self.headers.get("Authorization"))
        self.server.asked_from.append(start)
        if start >= len(self.server.content):
            self.send_error(416)
            return
        self.headers_of(start)
        is_first = len(self.server.asked_from) == 1
        self.wfile.write(self.server.content[start : len(self.server.content) // 2 if is_first else None])
        self.close_connection = True
