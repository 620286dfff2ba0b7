"""Where a recording shall go: refused before anything slow is done, and tried, not only looked at.

A video, a folder of PNGs, an MCAP file of features, or a folder of .npz.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.runtimes.recordings.mcap_file import check_mcap
from brixel_edge.runtimes.recordings.messages import RecordedPrecision
from brixel_edge.runtimes.recordings.recording import RECORDING_SUFFIX

# Those that both writers can make; AVI has no time stamps, so OpenCV writes it.
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi")
FILE_SUFFIXES = (*VIDEO_SUFFIXES, RECORDING_SUFFIX)
# Less than a second of pictures; a disk that has no room for it will have none for a recording.
_TRIED_BYTES = 1 << 18


def check_target(path: Path, *, is_replacing: bool = False) -> None:
    """Refuse what cannot be written or must not be overwritten; leaves nothing behind.

    Args:
        path: as given with --save.
        is_replacing: whether what is there may be overwritten (--force).

    Raises:
        BundleError: the message says what to type.
        BackendMissing: the library that writes it is not installed.
    """
    if path.suffix.lower() in FILE_SUFFIXES:
        if path.suffix.lower() == RECORDING_SUFFIX:
            check_mcap()
        _check_file(path, is_replacing)
        folder = path.parent
    elif path.suffix:
        allowed = ", ".join(FILE_SUFFIXES)
        raise BundleError(
            f"--save {path}: {path.suffix} is none of {allowed}; a name without suffix is a folder of PNGs"
        )
    else:
        _check_folder(path, is_replacing)
        folder = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    _try_writing(path, folder)


@dataclass(frozen=True, kw_only=True)
class Saving:
    """What a run keeps; `check_target` and `check_feature_options` have passed.

    Attributes:
        path: a video, a recording, or a folder; None for nothing.
        features: `npz` for a folder of features; None for pictures, but in an .mcap.
        precision: in which features are kept; None for that in which they were computed.
    """

    path: Path | None = None
    features: str | None = None
    precision: RecordedPrecision | None = None

    @property
    def keeps_features(self) -> bool:
        """Whether it is features that are kept."""
        return self.path is not None and is_for_features(self.path, self.features)

    @property
    def keeps_pictures(self) -> bool:
        """Whether it is pictures that are kept."""
        return self.path is not None and not self.keeps_features

    @property
    def keeps_video(self) -> bool:
        """Whether it is a video that is kept."""
        return self.path is not None and self.path.suffix.lower() in VIDEO_SUFFIXES


def is_for_features(path: Path, save_features: str | None) -> bool:
    """Whether features are kept there, and not pictures."""
    return path.suffix.lower() == RECORDING_SUFFIX or save_features is not None


def check_feature_options(path: Path | None, save_features: str | None, save_precision: str | None) -> None:
    """Refuse options that do not fit together.

    Args:
        path: as given with --save.
        save_features: as given with --save-features.
        save_precision: as given with --save-precision.

    Raises:
        SpecError: they do not.
    """
    if save_features is not None and (path is None or path.suffix):
        given = f"not to {path}" if path is not None else "and no --save is given"
        raise SpecError(f"--save-features {save_features} goes to a folder, {given}; give --save DIR, without a suffix")
    if save_precision is not None and (path is None or not is_for_features(path, save_features)):
        raise SpecError(
            f"--save-precision {save_precision} is for features; give --save features.mcap, or --save DIR "
            "--save-features npz"
        )


def _check_file(path: Path, is_replacing: bool) -> None:
    if not path.parent.is_dir():
        raise BundleError(f"--save {path}: folder {path.parent} is not there; make it first")
    if path.is_dir():
        raise BundleError(f"--save {path} is a folder; name a file, or a folder without {path.suffix}")
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
