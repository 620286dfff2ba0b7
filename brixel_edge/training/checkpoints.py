"""Checkpoints that are whole or not there.

A file is written under a temporary name, flushed to the disk and renamed. It begins with a line that holds the length
and the sha256 of the rest, so a damaged one is recognised, and the one before it is used. The last two are kept.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from brixel_edge.errors import BundleError
from brixel_edge.machine.files import write_atomically

logger = logging.getLogger(__name__)

MAGIC = b"brixel-checkpoint-1"
KEPT = 2
_NAME = re.compile(r"^step-(\d+)\.ckpt$")


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    found = [(int(match[1]), path) for path in folder.glob("*.ckpt") if (match := _NAME.match(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> bool:
    """Write a checkpoint and remove all but the last two.

    Args:
        folder: made when needed.
        step: steps done.
        state: tensors, numbers, strings, and lists and dicts of them.

    Returns:
        False where it could not be written, for instance on a full disk; the checkpoints before are untouched.
    """
    stream = io.BytesIO()
    torch.save(state, stream)
    payload = stream.getbuffer()
    header = b"%s %d %s\n" % (MAGIC, len(payload), hashlib.sha256(payload).hexdigest().encode())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"step-{step:08d}.ckpt", header + payload)
    except OSError as error:
        last = next(iter(checkpoint_files(folder)), None)
        logger.warning(
            "checkpoint of step %d could not be written (%s); the last good one is %s",
            step,
            error.strerror or error,
            last,
        )
        return False
    for path in checkpoint_files(folder)[KEPT:]:
        path.unlink(missing_ok=True)
    return True


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote.

    Raises:
        BundleError: damaged, cut off, or no checkpoint.
    """
    try:
        header, _, payload = path.read_bytes().partition(b"\n")
        magic, length, digest = header.split(b" ")
        if magic != MAGIC or int(length) != len(payload) or hashlib.sha256(payload).hexdigest().encode() != digest:
            raise BundleError(f"{path} is damaged: length or sha256 differ from what was written")
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        raise error if isinstance(error, BundleError) else BundleError(f"{path} is no checkpoint ({error})") from error


def last_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, saying which ones are not; None where there is none at all.

    Raises:
        BundleError: there are checkpoints, but all are damaged.
    """
    files = checkpoint_files(folder)
    for path in files:
        try:
            state = read_checkpoint(path)
        except BundleError as error:
            logger.warning("%s; going back to the one before", error)
            continue
        logger.info("going on from %s", path)
        return state
    if files:
        raise BundleError(f"all {len(files)} checkpoints in {folder} are damaged; remove the folder to start again")
    return None
