"""The memory contract: what a run will take, said before anything is loaded, and measured while it goes.

The plan is arithmetic on the graph's size and grid. Its factors were fitted to the peaks of five exported models (7 to
366 MB, 256 and 512 px, x86, 2 threads); it was within 10 % of each. What the libraries take is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from brixel_edge.errors import MemoryBudgetError, SpecError
from brixel_edge.machine.memory import MIB, format_bytes
from brixel_edge.model.spec import ModelSpec
from brixel_edge.runtimes.sources.frames import FrameMemory

# Painting and packing pictures; PyAV with x264, or a window, beside that.
_PICTURES_BYTES, _VIDEO_BYTES = 28 * MIB, 36 * MIB
# A map that is kept: as a message, in a chunk, in a record of the file, each with its join.
_RECORDING_COPIES = 6
# Maps in flight: being made, waiting, being looked at.
_MAPS_IN_FLIGHT = 3
_HEAD_WIDTH = 64
# A patch embedding of several layers, whose first map has so many channels at half the image's size.
_STEM_CHANNELS = {"vit_nano_dinov3": 96}


@dataclass(frozen=True, kw_only=True)
class _Factors:
    """Of a backend: `fixed + weights * file`, and `activations * one output map` with or without attention scores.

    Or `stem * its first map`, where that is more: the two are not there at once.
    """

    fixed_bytes: int
    weights: float
    loading: float
    activations: float
    stem: float
    keeps_scores: bool


# OpenVINO holds most of the file's weights beside its own packed ones; ONNX Runtime does so while loading only.
_FACTORS = {
    "ort": _Factors(fixed_bytes=17 * MIB, weights=1.0, loading=1.4, activations=8.3, stem=3.0, keeps_scores=True),
    "openvino": _Factors(fixed_bytes=77 * MIB, weights=1.9, loading=2.3, activations=4.7, stem=1.8, keeps_scores=False),
}


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a run is expected to take at its peak, by item [bytes]."""

    items: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """The sum."""
        return sum(self.items.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / MIB:.0f}" for name, size in self.items.items())
        return f"{format_bytes(self.total_bytes)} ({parts})"


def plan_memory(
    spec: ModelSpec,
    graph_bytes: int,
    backend: str,
    *,
    now_bytes: int,
    queue_bytes: int,
    frames: Sequence[FrameMemory],
    has_pictures: bool,
    has_video: bool = True,
    keeps_features: bool = False,
) -> MemoryPlan:
    """Estimate the peak of a run.

    Args:
        spec: of the model.
        graph_bytes: size of the .onnx file.
        backend: `ort` or `openvino`.
        now_bytes: what the process holds with the backend's library loaded and no model.
        queue_bytes: bound of the frames that wait.
        frames: of each source.
        has_pictures: whether results are painted, to be shown or saved.
        has_video: whether they go into a window or a video; else they are files, or a page's.
        keeps_features: whether features are recorded, with their frames.

    Raises:
        SpecError: the backend's memory is not the process's.
    """
    if backend not in _FACTORS:
        raise SpecError(f"--budget is about the process's own memory; {backend} uses the device's, leave --budget out")
    factors = _FACTORS[backend]
    map_bytes = 4 * spec.dim * spec.grid[0] * spec.grid[1]
    tokens = (spec.image.height // spec.patch_px) * (spec.image.width // spec.patch_px)
    scores_bytes = 4 * max(1, spec.dim // _HEAD_WIDTH) * tokens**2 if factors.keeps_scores else 0
    stem_bytes = 4 * _STEM_CHANNELS.get(spec.backbone, 0) * (spec.image.height // 2) * (spec.image.width // 2)
    activations = max(round(factors.activations * map_bytes) + scores_bytes, round(factors.stem * stem_bytes))
    later = {
        "activations": activations,
        "frames": _frames_bytes(frames, queue_bytes, has_pictures or keeps_features),
        "pictures": _PICTURES_BYTES + (_VIDEO_BYTES if has_video else 0) if has_pictures else 0,
        "recording": _RECORDING_COPIES * map_bytes if keeps_features else 0,
    }
    # What loading takes beyond the weights is free again when these come.
    loading = max(0, round((factors.loading - factors.weights) * graph_bytes) - sum(later.values()))
    items = {
        "libraries": now_bytes,
        "camera process": sum(one.process_bytes for one in frames),
        "engine": factors.fixed_bytes,
        "weights": round(factors.weights * graph_bytes),
        "loading": loading,
        "features": _MAPS_IN_FLIGHT * 4 * sum(math.prod(shape) for shape in spec.outputs.values()),
        **later,
    }
    return MemoryPlan(items={name: size for name, size in items.items() if size})


def _frames_bytes(frames: Sequence[FrameMemory], queue_bytes: int, keeps_frames: bool) -> int:
    """With a slow engine: what each source holds, the frame that it wants to give, those that wait, the engine's.

    Who looks at frames needs one more, which is being painted or recorded.
    """
    if len(frames) == 1 and frames[0].count == 1:
        return frames[0].own_bytes + frames[0].frame_bytes
    # One may always wait.
    read = sum(
        one.own_bytes + one.frame_bytes + max(queue_bytes // len(frames) if one.may_queue else 0, one.frame_bytes)
        for one in frames
    )
    return read + (2 if keeps_frames else 1) * max(one.frame_bytes for one in frames)


def check_plan(plan: MemoryPlan, budget_bytes: int, what: str, alternative: MemoryPlan | None = None) -> None:
    """Refuse a plan that does not fit.

    Args:
        plan: of the run.
        budget_bytes: what it may take.
        what: the model on its backend, for the message.
        alternative: the same on ONNX Runtime, where that is something else.

    Raises:
        MemoryBudgetError: it does not fit; the message says what would.
    """
    if plan.total_bytes <= budget_bytes:
        return
    remedy = "use a smaller backbone, or export a smaller --size"
    if alternative is not None and alternative.total_bytes <= budget_bytes:
        remedy = f"--backend ort takes about {format_bytes(alternative.total_bytes)}"
    raise MemoryBudgetError(f"{what} needs about {plan}, over the budget of {format_bytes(budget_bytes)}; {remedy}")


def check_measured(peak_bytes: int | None, budget_bytes: int) -> None:
    """Refuse to go on over the budget.

    Raises:
        MemoryBudgetError: the process took more.
    """
    if peak_bytes is not None and peak_bytes > budget_bytes:
        raise MemoryBudgetError(
            f"the process took {format_bytes(peak_bytes)}, over its budget of {format_bytes(budget_bytes)}; "
            "use --backend ort, smaller frames or a smaller model"
        )
