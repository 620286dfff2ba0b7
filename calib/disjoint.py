"""Pictures that calibrate must not prove: what scales were fitted to says nothing of other pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brixel_edge.calib.frames import FrameStore, frame_hash
from brixel_edge.calib.sources import files_of
from brixel_edge.errors import SpecError
from brixel_edge.machine.files import sha256_of

_SHOWN = 3


def require_other_pictures(
    frames: FrameStore,
    source: str,
    names: Sequence[str],
    pixels: Sequence[NDArray[np.uint8]],
    files: Sequence[Path],
) -> None:
    """Refuse photographs of the proof that calibrate, or that another seed would let calibrate.

    Args:
        frames: of calibration, at the graph's size.
        source: where they come from.
        names: of the proof's photographs.
        pixels: theirs, (1, H, W, 3) uint8 each at the graph's size.
        files: that photographs of the proof are taken from.

    Raises:
        SpecError: the two share pictures, by their files or by their pixels.
    """
    known = set(frames.hashes)
    shared = {name for name, image in zip(names, pixels, strict=True) if frame_hash(image[0]) in known}
    shared |= _shared_files(files_of(source) or [], files)
    if shared:
        shown = ", ".join(sorted(shared)[:_SHOWN]) + (", ..." if len(shared) > _SHOWN else "")
        raise SpecError(
            f"{len(shared)} photographs of the proof are in --calib {source} too ({shown}); what calibrates cannot "
            "prove: give others as --parity-images, or take them out of --calib"
        )


def _shared_files(files: Sequence[Path], photographs: Sequence[Path]) -> set[str]:
    """Names of the photographs whose very bytes are among files; only files of the same size are read."""
    sizes = {path.stat().st_size for path in photographs}
    digests = {sha256_of(path) for path in files if path.is_file() and path.stat().st_size in sizes}
    return {path.name for path in photographs if digests and sha256_of(path) in digests}
