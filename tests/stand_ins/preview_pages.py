"""A page that is served in this process, and what a client asks of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re

import numpy as np

from brixel_edge.runtimes.stream.report import RunReport

REPORT = {
    **RunReport.of_nothing().to_json(), "model": 'm "x"', "processed": 7, "frames_in": 9, "dropped": 2, "waiting": 0,
    "fps": 12.5,
    "stages": {"infer": {"p50_ms": 20.0, "p95_ms": 30.0, "p99_ms": float("nan"), "n": 7}}, "peak_memory_bytes": 1 << 20,
    "health": {"state": "running", "sources": [{"state": "running", "reason": "secret place"}]},
}  # fmt: skip
PICTURE = np.full((36, 96, 3), 90, np.uint8)


def port_of(preview):
    return int(re.search(r":(\d+)/", preview.url)[1])


def ask(preview, path, method="GET", body=None, host=None, **headers):
    """(status, headers, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(preview), timeout=20)
    with contextlib.closing(connection):
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Host": host or f"127.0.0.1:{port_of(preview)}", **given})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def post(preview, record, **headers):
    return ask(preview, "/requests", "POST", json.dumps(record), **{"Content_Type": "application/json", **headers})
