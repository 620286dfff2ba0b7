"""Integer scales: symmetric INT8 for activations (one scale a tensor) and weights (one an output channel).

The range is min-max: after smoothing it was best or equal in every measurement, while percentiles and entropy clip
exactly the rare large values that dense heads need (cosine 0.9988 to 0.9970 on a clean model). ONNX Runtime's
unsigned kernels get an asymmetric range from the same minimum and maximum.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from brixel_edge.calib.layers import Layer

Array = NDArray[np.float32]
LEVELS = 127
# The smallest normal float16. A scale below it would lose bits, or flush to zero, where TensorRT holds it in float16.
MIN_SCALE = 2.0**-14


@dataclass(frozen=True, kw_only=True)
class Range:
    """Smallest and largest value of a tensor over the calibration frames."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        """Symmetric INT8 scale: value = scale * integer, integer in [-127, 127]."""
        return max(max(-self.low, self.high) / LEVELS, MIN_SCALE)

    @property
    def unsigned(self) -> tuple[float, int]:
        """(scale, zero point) of uint8; the range is widened to hold zero, which padding needs exact."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        scale = max((high - low) / 255, MIN_SCALE)
        return scale, int(np.clip(round(-low / scale), 0, 255))


@dataclass(frozen=True, kw_only=True)
class IntegerLayer:
    """One layer to run in INT8, in terms of the smoothed graph.

    Attributes:
        layer: the layer.
        x: tensor that it reads there.
        range: of that tensor.
        shift: to add to its bias, (N,), or None.
    """

    layer: Layer
    x: str
    range: Range
    shift: Array | None = field(default=None, repr=False)


def range_of(low: Array, high: Array, smoothing: Array | None = None) -> Range:
    """Range of a tensor from its per-channel extremes, after division by the smoothing scales (C,)."""
    divisor = np.float32(1) if smoothing is None else smoothing
    return Range(low=float((low / divisor).min()), high=float((high / divisor).max()))


def quantize_weight(weight: Array, out_axis: int) -> tuple[NDArray[np.int8], Array]:
    """Integers and per-output-channel scales of a weight.

    Returns:
        int8 of the weight's shape, within [-127, 127], and scales (out channels,).
    """
    others = tuple(axis for axis in range(weight.ndim) if axis != out_axis)
    scale = np.maximum(np.abs(weight).max(others) / np.float32(LEVELS), np.float32(MIN_SCALE)).astype(np.float32)
    shape = [-1 if axis == out_axis else 1 for axis in range(weight.ndim)]
    integers = np.clip(np.rint(weight / scale.reshape(shape)), -LEVELS, LEVELS).astype(np.int8)
    return integers, scale


def rounded_weight(weight: Array, out_axis: int) -> Array:
    """The weight as INT8 holds it, back in floating point."""
    integers, scale = quantize_weight(weight, out_axis)
    shape = [-1 if axis == out_axis else 1 for axis in range(weight.ndim)]
    return integers.astype(np.float32) * scale.reshape(shape)


def rounded_rows(rows: Array, scale: float) -> Array:
    """Activations as symmetric INT8 holds them, back in floating point."""
    return np.clip(np.rint(rows / np.float32(scale)), -LEVELS - 1, LEVELS) * np.float32(scale)


def bias_shift(rows: Array, weight: Array, scale: float) -> Array:
    """What rounding takes from a linear's mean output: E[X W - X^ W^], to be added to its bias.

    Args:
        rows: sampled inputs X (n, K).
        weight: W (K, N).
        scale: of the activations.

    Returns:
        (N,); zero for channels where it exceeds three standard deviations of the output: only a broken sample does.
    """
    exact = rows @ weight
    shift = (exact - rounded_rows(rows, scale) @ rounded_weight(weight, 1)).mean(0)
    return np.where(np.abs(shift) <= 3 * exact.std(0), shift, 0).astype(np.float32)
