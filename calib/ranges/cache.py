"""Calibrations kept in a folder, so that the same frames of the same graph are run once.

A file is named by what it was made from; one that says otherwise inside is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from brixel_edge.calib.frames import Image
from brixel_edge.calib.graph import Graph
from brixel_edge.calib.ranges.calibration import CALIBRATION_VERSION, Calibration, calibrate, load_calibration


def cached_calibration(
    folder: Path | None,
    graph: Graph,
    graph_sha256: str,
    frames: Iterable[Image],
    frame_hashes: Sequence[str],
    *,
    seed: int,
    threads: int,
) -> Calibration:
    """What is in the folder, or a new calibration, which is put there; see `calibrate`.

    Args:
        folder: of the cache; made where it is missing. None calibrates anew.
        graph: the float graph.
        graph_sha256: of its file.
        frames: uint8 (1, H, W, 3) each; read only where nothing is in the folder.
        frame_hashes: theirs.
        seed: of the sampled rows.
        threads: of inference.

    Raises:
        BundleError: the file in the folder is damaged or stale.
    """
    path = None if folder is None else folder / calibration_name(graph_sha256, frame_hashes, seed)
    if path is not None and path.exists():
        return load_calibration(path, graph, graph_sha256, frame_hashes, seed=seed)
    calibration = calibrate(graph, graph_sha256, frames, frame_hashes, seed=seed, threads=threads)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        calibration.save(path)
    return calibration


def calibration_name(graph_sha256: str, frame_hashes: Sequence[str], seed: int) -> str:
    """For instance `calib.1f3a52c09b4d.77e0c1d2a3b4.json`: the graph, and all else that it was made from."""
    made_from = hashlib.sha256(repr((CALIBRATION_VERSION, seed, *sorted(frame_hashes))).encode()).hexdigest()
    return f"calib.{graph_sha256[:12]}.{made_from[:12]}.json"
