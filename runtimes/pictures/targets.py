"""Where a recording shall go: refused before anything slow is done, and tried, not only looked at."""

from __future__ import annotations

import os
from pathlib import Path

from brixel_edge.errors import BundleError

# Those that both writers can make; AVI has no time stamps, so OpenCV writes it.
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi")
# Less than a second of pictures; a disk that has no room for it will have none for a recording.
_TRIED_BYTES = 1 << 18


def check_target(path: Path, *, is_replacing: bool = False) -> None:
    """Refuse what cannot be written or must not be overwritten; leaves nothing behind.

    Args:
        path: as given with --save.
        is_replacing: whether what is there may be overwritten (--force).

    Raises:
        BundleError: the message says what to type.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        _check_file(path, is_replacing)
        folder = path.parent
    elif path.suffix:
        allowed = ", ".join(VIDEO_SUFFIXES)
        raise BundleError(
            f"--save {path}: {path.suffix} is none of {allowed}; a name without suffix is a folder of PNGs"
        )
    else:
        _check_folder(path, is_replacing)
        folder = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    _try_writing(path, folder)


def _check_file(path: Path, is_replacing: bool) -> None:
    if not path.parent.is_dir():
        raise BundleError(f"--save {path}: folder {path.parent} is not there; make it first")
    if path.is_dir():
        raise BundleError(f"--save {path} is a folder; name a video file, or a folder without {path.suffix}")
    if path.exists() and not is_replacing:
        raise BundleError(f"--save {path} is there; choose another name, or --force replaces it")


def _check_folder(path: Path, is_replacing: bool) -> None:
    if path.exists() and not path.is_dir():
        raise BundleError(f"--save {path} is there and not an empty folder; choose another")
    if not is_replacing and path.is_dir() and any(path.iterdir()):
        raise BundleError(
            f"--save {path} is there and not an empty folder; choose another, or --force replaces files of equal name"
        )


def _try_writing(path: Path, folder: Path) -> None:
    """Write a little and take it away again: permissions, a read-only disk and a full one show only so."""
    if not folder.is_dir():
        raise BundleError(f"--save {path} cannot be made ({folder} is a file); choose another")
    trial = folder / f".{path.stem}.{os.getpid()}.trial"
    try:
        try:
            trial.write_bytes(bytes(_TRIED_BYTES))
        finally:
            trial.unlink(missing_ok=True)
    except OSError as error:
        raise BundleError(
            f"--save {path} cannot be written ({error.strerror or error}); make room or choose another place"
        ) from error
