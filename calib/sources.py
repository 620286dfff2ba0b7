"""Calibration frames from what a user names: a folder or glob of images, a video, a live camera.

Opened by the same code as on the device and brought to the graph's size by the same kernel, so that calibration sees
what inference will see.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from brixel_edge.calib.frames import FrameStore, Shot, sample_frames, store_shots
from brixel_edge.image.fit import Fit, fit_frame
from brixel_edge.machine.progress import progress
from brixel_edge.model.spec import ImageSpec
from brixel_edge.runtimes.sources.frames import FrameSource
from brixel_edge.runtimes.sources.images import ImageFiles, images_from_folder, images_from_glob
from brixel_edge.runtimes.sources.opening import open_source

DEFAULT_COUNT = 96  # from 16 calibrating ones on accuracy hardly grows; the rest is held out, to choose and to judge
SPACING_S = 0.2  # neighbouring frames of a film show the same
LIVE_S = 60.0


def calibration_frames(
    source: str,
    image: ImageSpec,
    *,
    count: int = DEFAULT_COUNT,
    seed: int = 0,
    fit: Fit = "stretch",
) -> FrameStore:
    """A reproducible, diverse sample of a source.

    Args:
        source: folder, glob, video file, stream or camera (`0`), as `brixel_edge.runtimes.sources.opening` reads it.
        image: what the graph takes.
        count: frames wanted.
        seed: of the choice. A live camera gives other frames every time; their hashes are recorded.
        fit: what to do where aspects differ, as on the device.

    Returns:
        up to `count` different frames in the graph's channel order, on disk.

    Raises:
        SourceError: a camera or stream that does not open.
        BundleError: files that are missing or not what they should be.
    """
    opened = _chosen_files(source, count, seed) or open_source(source)
    with closing(opened):
        fitted = (Shot(image=fit_frame(shot.image, image, fit).image[0], t_s=shot.t_s) for shot in _spaced(opened))
        read = progress(fitted, "reading calibration frames")
        chosen = read if isinstance(opened, ImageFiles) else sample_frames(read, count, seed)
        return store_shots(chosen, (image.height, image.width))


def files_of(source: str) -> list[Path] | None:
    """The pictures of a folder or glob; None for other sources."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return images_from_folder(folder)
    if not folder.exists() and any(mark in source for mark in "*?["):
        return images_from_glob(source)
    return None


def _chosen_files(source: str, count: int, seed: int) -> ImageFiles | None:
    """A seeded choice of the files of a folder or glob, which is not read whole; None for other sources."""
    paths = files_of(source)
    if paths is None:
        return None
    chosen = np.random.default_rng(seed).permutation(len(paths))[:count]
    return ImageFiles([paths[position] for position in sorted(chosen)], source)


def _spaced(source: FrameSource) -> Iterator[Shot]:
    """Pictures of a source, of a film every `SPACING_S`, of a live one for `LIVE_S` at most."""
    is_film = not isinstance(source, ImageFiles)
    due_s = 0.0
    while (frame := source.read()) is not None:
        if source.is_live and frame.t_media_s > LIVE_S:
            return
        if not is_film or frame.t_media_s >= due_s - 1e-3:
            due_s = frame.t_media_s + SPACING_S
            yield Shot(image=frame.image, t_s=frame.t_media_s if is_film else None)
