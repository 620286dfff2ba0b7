"""TensorRT's timings of kernels, kept between builds: the second build of a model is several times faster.

A cache of another release or device may be taken without complaint and choose wrong kernels (NVIDIA's developer guide
warns of functional and performance bugs), so that all it depends on is in its name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from brixel_edge.export.engine.log import Emit
from brixel_edge.machine.cuda import DeviceIdentity
from brixel_edge.machine.files import write_atomically


def timing_cache_name(device: DeviceIdentity) -> str:
    """File name by TensorRT build and device; two that differ in anything have two names."""
    slug = re.sub(r"[^a-z0-9]+", "-", (device.board or device.name).lower()).strip("-")
    return f"timing.{device.tensorrt}.sm{device.compute_capability}.{slug}.{device.digest}.cache"


def attach_timing_cache(config: Any, path: Path, emit: Emit) -> None:
    """Give a builder configuration the cache at `path`, or a new one if there is none that it accepts."""
    stored = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(stored)
    if cache is not None and config.set_timing_cache(cache, False):
        return
    if stored:
        emit({"event": "warning", "message": f"{path.name} was not accepted by TensorRT; starting a new timing cache"})
    cache = config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, False)


def save_timing_cache(config: Any, path: Path) -> None:
    """Write what the build has learned; a build that is cut off here leaves the old cache."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, memoryview(cache.serialize()))
