"""DAVIS 2017: videos whose first frame's masks are given and are to be found in the others."""

from __future__ import annotations

from pathlib import Path

from brixel_edge.errors import DataError
from brixel_edge.evaluation.layouts.files import first_folder, listed, pictures_in, require
from brixel_edge.evaluation.samples import Video

RESOLUTIONS = ("480p", "Full-Resolution")


def davis(root: Path) -> tuple[Video, ...]:
    """The validation videos at 480p, or at full resolution where that is what is there.

    Raises:
        DataError: another layout.
    """
    layout = "JPEGImages/480p/VIDEO, Annotations/480p/VIDEO and ImageSets/2017/val.txt"
    base = first_folder(root, "DAVIS", ".", layout=layout)
    frames = first_folder(base / "JPEGImages", *RESOLUTIONS, layout=layout)
    masks = base / "Annotations" / frames.name
    names = listed(base / "ImageSets" / "2017" / "val.txt")
    videos = []
    for name in names:
        pictures = pictures_in(frames / name)
        if len(pictures) < 2:
            raise DataError(f"{frames / name} has {len(pictures)} frames; fetch DAVIS 2017 (TrainVal) again")
        labels = tuple(require(masks / name / f"{path.stem}.png", f"the mask of {path.name}") for path in pictures)
        videos.append(Video(name=name, frames=tuple(pictures), masks=labels))
    return tuple(videos)
