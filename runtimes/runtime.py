"""What every backend gives: uint8 pixels in, feature maps out, in two methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.machine.openvino_hint import OpenVinoPrecision

# Samples of deformable attention, outputs of a graph only so that TensorRT does not fuse them. Nobody reads them.
MATERIALISED_PREFIX = "materialised."


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Why an engine may be believed on this device.

    Attributes:
        kind: proven by the export on this very device, at an earlier load here, at this load, or not at all.
        text: the same for people, with its figures.
    """

    kind: Literal["export", "noted", "now", "none"]
    text: str


NO_EVIDENCE = Evidence(kind="none", text="not proven here: no proof lies beside it")


class Runtime(Protocol):
    """An opened engine. Several threads may call it: each backend either lets them run side by side or take turns."""

    evidence: Evidence

    def infer(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Run the graph.

        Args:
            image: (1, H, W, 3) uint8, C-contiguous, channels in the order that the spec names. Only read, and only
                during the call.

        Returns:
            every output by its name, `features` (1, D, h, w) among them, but none that is materialised for the
            compiler's sake. The arrays are the caller's: new at each call, and the runtime keeps no hold on them.
        """
        ...

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        ...


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """How to open an engine.

    Attributes:
        threads: of the CPU backends; None takes one per core.
        openvino_precision: in what OpenVINO computes what is not integer. `auto` is f32 for float graphs, and for INT8
            graphs bf16 where the CPU has it; see `brixel_edge.machine.openvino_hint`.
        is_proven_first: an engine of a model directory that was never proven on this device must pass its gate before
            it is handed out; False is for who runs the gate anyway.
    """

    threads: int | None = None
    openvino_precision: OpenVinoPrecision = "auto"
    is_proven_first: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise SpecError(f"threads={self.threads} is not positive; leave it out for one per core")
        if self.openvino_precision not in get_args(OpenVinoPrecision):
            allowed = ", ".join(get_args(OpenVinoPrecision))
            raise SpecError(f"OpenVINO precision {self.openvino_precision!r} is not one of {allowed}")
