"""Fetching a file over HTTP, gone on with where an earlier attempt ended, in whatever process that was."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from brixel_edge.machine.files import write_atomically
from brixel_edge.machine.progress import progress

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 30.0  # without a byte
_PARTIAL, _NOTHING_BEHIND = 206, 416


def fetch_file(address: str, target: Path, what: str, *, token: str | None = None) -> None:
    """Fetch a file.

    What has arrived so far is in `TARGET.part`, and beside it what the server called that version of the file: another
    version is fetched from its beginning.

    Args:
        address: http or https.
        target: file to write.
        what: a word for it, for the progress.
        token: shown to the server itself, not to those that it sends us on to.

    Raises:
        OSError: no network, no such file, or the transfer broke off.
    """
    part, mark = (target.with_name(f"{target.name}.{suffix}") for suffix in ("part", "version"))
    there = part.stat().st_size if part.exists() and mark.exists() else 0
    request = urllib.request.Request(address)
    if there:
        request.add_header("Range", f"bytes={there}-")
        request.add_header("If-Range", mark.read_text(encoding="utf-8"))
    if token:
        # The hub sends on to a store whose addresses are signed; a second permission makes it refuse.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        answering = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != _NOTHING_BEHIND or not there:
            raise
        part.unlink()  # all of it had arrived, or more: not to be told apart
        fetch_file(address, target, what, token=token)
        return
    with answering as answer:
        if answer.status != _PARTIAL:
            there = 0
            part.unlink(missing_ok=True)
            mark.unlink(missing_ok=True)
            if version := answer.headers.get("ETag"):
                write_atomically(mark, version)
        rest = int(answer.headers["Content-Length"])
        _append(part, progress(_blocks(answer), f"{what}, MiB", total=-(-rest // _BLOCK_BYTES)))
    if part.stat().st_size != there + rest:
        raise OSError(f"the transfer broke off after {part.stat().st_size} of {there + rest} bytes; try again")
    part.replace(target)
    mark.unlink(missing_ok=True)


def _blocks(answer: Any) -> Iterator[bytes]:
    """What arrives, a MiB at a time; ends early where the server does."""
    while True:
        try:
            block = answer.read(_BLOCK_BYTES)
        except http.client.IncompleteRead as error:
            block = error.partial
        if not block:
            return
        yield block


def _append(part: Path, blocks: Iterator[bytes]) -> None:
    with part.open("ab") as stream:
        for block in blocks:
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
