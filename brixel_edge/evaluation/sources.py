"""Where features come from: a network in torch, or an engine of a model directory.

Every kind answers the same questions: how large a picture it wants, what map it gives, what that costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from brixel_edge.errors import SpecError
from brixel_edge.image.resize import resize_image
from brixel_edge.model.head_spec import FeatureOrigin
from brixel_edge.network.flops import count_gflop
from brixel_edge.runtimes.model import Model

Kernel = Literal["bicubic", "bilinear"]
Size = tuple[int, int]


class FeatureSource(Protocol):
    """One way to make a feature map of a picture.

    Attributes:
        identity: names what is computed, weights and all, for the cache.
        origin: of its features; None where no exported model gives such, or it does not say.
    """

    identity: str
    origin: FeatureOrigin | None

    def input_size(self, view: Size) -> Size:
        """(height, width) of the picture it is fed, for a student's view of `view` [px]."""
        ...

    def shape(self, view: Size) -> tuple[int, int, int]:
        """(D, h, w) of its map."""
        ...

    def map_of(self, frame: NDArray[np.uint8], view: Size, kernel: Kernel) -> Tensor:
        """The (D, h, w) float32 map, on the CPU, of an (H, W, 3) uint8 BGR picture of any size."""
        ...

    def gflop(self, view: Size) -> float | None:
        """What one picture costs; None where that cannot be told."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def resized(frame: NDArray[np.uint8], size: Size, kernel: Kernel) -> NDArray[np.uint8]:
    """A picture at a size: by the kernel of training and device, or by the authors' (Pillow's bilinear)."""
    if kernel == "bicubic":
        return resize_image(frame, *size)
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BILINEAR))


class TorchSource:
    """A network that takes a normalised (1, 3, H, W) picture and gives a (1, D, h, w) map.

    Args:
        module: the network, in evaluation mode.
        mean: of (R, G, B).
        std: of (R, G, B).
        sizes: from the student's view to the network's input [px].
        identity: see `FeatureSource`.
        device: where it runs.
        origin: see `FeatureSource`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        sizes: Callable[[Size], Size],
        identity: str,
        device: torch.device,
        origin: FeatureOrigin | None = None,
    ) -> None:
        self.identity, self.origin = identity, origin
        self._module, self._sizes, self._device = module.eval().to(device), sizes, device
        self._mean, self._std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
        self._shapes: dict[Size, tuple[int, int, int]] = {}

    def input_size(self, view: Size) -> Size:
        """As `FeatureSource`."""
        return self._sizes(view)

    def shape(self, view: Size) -> tuple[int, int, int]:
        """As `FeatureSource`; found by running once on nothing."""
        if view not in self._shapes:
            with torch.inference_mode():
                image = torch.zeros(1, 3, *self.input_size(view), device=self._device)
                dim, height, width = self._module(image).shape[1:]
            self._shapes[view] = (dim, height, width)
        return self._shapes[view]

    def map_of(self, frame: NDArray[np.uint8], view: Size, kernel: Kernel) -> Tensor:
        """As `FeatureSource`."""
        rgb = np.ascontiguousarray(resized(frame, self.input_size(view), kernel)[..., ::-1])
        with torch.inference_mode():
            image = torch.from_numpy(rgb).to(self._device).permute(2, 0, 1)[None].float() / 255
            return self._module((image - self._mean) / self._std)[0].float().cpu()

    def gflop(self, view: Size) -> float | None:
        """As `FeatureSource`."""
        return count_gflop(self._module, torch.empty(1, 3, *self.input_size(view)))

    def close(self) -> None:
        """Nothing is held."""


class EngineSource:
    """An opened engine, of whatever backend; its graph has one size, to which pictures are stretched.

    Args:
        model: opened; closed with the source.
        identity: see `FeatureSource`.
        file: name of the graph or engine that runs.
        gflop: of one picture; None where that cannot be told.
    """

    def __init__(self, model: Model, identity: str, file: str, gflop: float | None) -> None:
        self.identity, self._model, self._gflop = identity, model, gflop
        self.origin = model.spec.feature_origin
        self.file, self.backend = file, model.backend

    def input_size(self, view: Size) -> Size:
        """The graph's, whatever the view."""
        image = self._model.spec.image
        return image.height, image.width

    def shape(self, view: Size) -> tuple[int, int, int]:
        """As `FeatureSource`."""
        spec = self._model.spec
        return spec.dim, *spec.grid

    def map_of(self, frame: NDArray[np.uint8], view: Size, kernel: Kernel) -> Tensor:
        """As `FeatureSource`; the kernel is the device's."""
        values = self._model(frame).values
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), np.float32))

    def gflop(self, view: Size) -> float | None:
        """As `FeatureSource`."""
        return self._gflop

    def close(self) -> None:
        """Close the engine."""
        self._model.close()


@dataclass(frozen=True, kw_only=True)
class FeatureKind:
    """A row of the result: a source, and what becomes of its map.

    Attributes:
        name: of the row.
        source: of the map; several kinds may share one.
        enlarge: the map is enlarged so many times, bilinearly, before the probe reads it.
        mixes_probabilities: what is enlarged to the label is the probe's probabilities, not its logits.
    """

    name: str
    source: FeatureSource
    enlarge: int = 1
    mixes_probabilities: bool = False

    def seen(self, stored: Tensor) -> Tensor:
        """What the probe reads: (1, D, h, w) float32 of a stored (D, h, w) map."""
        values = stored.float()[None]
        if self.enlarge == 1:
            return values
        return functional.interpolate(values, scale_factor=self.enlarge, mode="bilinear", align_corners=False)


class LastMap(nn.Module):
    """A backbone's own map alone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D, h, w)."""
        return self.backbone(image)[-1]


class TwoScales(nn.Module):
    """S2: the map of the picture, and beside it in channels that of the picture at twice the size, in four tiles.

    The grid stays that of the single pass: the larger map is averaged down to it. Five passes in all.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.single = LastMap(backbone)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, 2H, 2W) -> (B, 2D, h, w)."""
        height, width = image.shape[-2] // 2, image.shape[-1] // 2
        small = functional.interpolate(image, size=(height, width), mode="bilinear", antialias=True)
        rows = [
            torch.cat([self.single(tile) for tile in strip.split(width, dim=-1)], dim=-1)
            for strip in image.split(height, dim=-2)
        ]
        fine = torch.cat(rows, dim=-2)
        return torch.cat((self.single(small), functional.avg_pool2d(fine, 2)), dim=1)


def size_of_equal_cost(cost: Callable[[Size], float], budget: float, view: Size, patch_px: int) -> Size:
    """The largest input, of the view's aspect as nearly as patches allow, that costs no more than `budget`.

    Args:
        cost: GFLOP of an input size; rises with it.
        budget: GFLOP.
        view: the student's [px].
        patch_px: sides are multiples of it.

    Raises:
        SpecError: even the view itself costs more.
    """
    best: Size | None = None
    for short in range(min(view) // patch_px, 16 * min(view) // patch_px):
        scale = short * patch_px / min(view)
        height, width = (max(1, round(side * scale / patch_px)) * patch_px for side in view)
        if cost((height, width)) > budget * (1 + 1e-9):
            break
        best = (height, width)
    if best is None:
        raise SpecError(f"at {view[0]}x{view[1]} the backbone alone costs more than {budget:.2f} GFLOP")
    return best


def parse_engine(text: str) -> dict[str, Any]:
    """Arguments of `open_model` for an engine's name: `onnx-int8`, `openvino-fp32`, `trt-fp16`.

    Raises:
        SpecError: it is none.
    """
    backends = {"onnx": "ort", "ort": "ort", "openvino": "openvino", "trt": "trt"}
    kind, _, precision = text.partition("-")
    if kind not in backends or precision not in ("fp32", "fp16", "bf16", "int8"):
        raise SpecError(
            f"--engine {text!r} is not BACKEND-PRECISION: onnx, openvino or trt, then fp32, fp16, bf16 or int8; for "
            "instance onnx-int8"
        )
    return {"backend": backends[kind], "precision": precision}
