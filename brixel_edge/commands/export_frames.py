"""The frame-taking process: calibration frames of a source in a file, so that none stay in memory beside a compiler.

Needs OpenCV, no torch and no onnx. Started as `python -m brixel_edge.commands.export_frames`.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from brixel_edge.machine.process import answering, ask
from brixel_edge.model.spec import ModelSpec

_MODULE = "brixel_edge.commands.export_frames"
FRAMES_NAME, TIMES_NAME = "frames.npy", "frames.times.npy"


def frames_file(source: str, spec: ModelSpec, folder: Path, *, count: int, seed: int) -> Path:
    """Take frames and keep them in a folder.

    Args:
        source: folder, video or camera, as of `--calib`.
        spec: of the model that takes them.
        folder: for the file of frames, and that of their times.
        count: frames wanted.
        seed: of the choice.

    Returns:
        .npy of (n, H, W, 3) uint8; times lie beside it.

    Raises:
        BrixelError: a source that does not open, or has nothing.
    """
    request = {"source": source, "spec": spec.to_json(), "folder": str(folder.resolve()), "count": count, "seed": seed}
    ask(_MODULE, request, f"taking frames from {source}")
    return folder / FRAMES_NAME


def times_beside(frames: Path) -> list[float | None]:
    """Place of each frame on its film's time line [s]; None for photographs."""
    return [None if math.isnan(time) else float(time) for time in np.load(frames.with_name(TIMES_NAME))]


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from brixel_edge.calib.sources import calibration_frames

    image, folder = ModelSpec.from_json(request["spec"]).image, Path(request["folder"])
    frames = calibration_frames(request["source"], image, count=request["count"], seed=request["seed"])
    shape = (len(frames), image.height, image.width, 3)
    pixels = np.lib.format.open_memmap(folder / FRAMES_NAME, mode="w+", dtype=np.uint8, shape=shape)
    for position in range(len(frames)):
        pixels[position] = frames[position][0]
    pixels.flush()
    np.save(folder / TIMES_NAME, np.array([math.nan if time is None else time for time in frames.times_s]))
    return {"frames": len(frames)}


if __name__ == "__main__":
    sys.exit(answering(_answer))
