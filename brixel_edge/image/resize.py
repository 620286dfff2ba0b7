"""The one kernel that brings a picture to the size a graph takes: antialiased bicubic, in numpy.

The same numbers as `torch.nn.functional.interpolate(mode="bicubic", antialias=True)`: Keys' cubic with a = -0.5,
widened by the scale when shrinking, half-pixel centres, weights normalised over the pixels that exist; then rounded
to uint8. So training and the device see the same pixels without torch on the device.

Both passes are products with banded matrices, cut into blocks: 8 output rows read only some 40 rows of a 720-row frame,
so a block's matrix is small and dense, and BLAS runs it at full speed. 1280 x 720 to 256 x 256 takes about 2.5 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError

CUBIC_A = -0.5
# Measured for 1280 x 720 to 256 x 256; larger blocks multiply more zeros, smaller ones cost more calls.
_ROWS_PER_BLOCK, _COLUMNS_PER_BLOCK = 8, 4
# OpenBLAS runs a product on one thread up to this many multiply-adds (64 Ki times its GEMM_MULTITHREAD_THRESHOLD of 4).
# Its threads would fight with the engine's for the cores: two threads halve the time here and triple the CPU time.
_SINGLE_THREAD_PRODUCTS = 262_144


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Outputs [out_start, out_stop) as weights (outputs, inputs) of inputs [in_start, in_stop)."""

    out_start: int
    out_stop: int
    in_start: int
    in_stop: int
    weights: NDArray[np.float32]


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic kernel with a = -0.5; zero from |x| = 2 on."""
    x = np.abs(x)
    near = ((CUBIC_A + 2) * x - (CUBIC_A + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * CUBIC_A - 4 * CUBIC_A
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _block(size_in: int, size_out: int, start: int, stop: int) -> _Block:
    scale = size_in / size_out
    reach = 2 * max(scale, 1.0)
    centres = (np.arange(start, stop) + 0.5) * scale
    first, last = max(0, int(centres[0] - reach)), min(size_in, int(centres[-1] + reach) + 1)
    offsets = np.arange(first, last) + 0.5 - centres[:, None]
    weights = cubic(offsets / max(scale, 1.0))
    weights /= weights.sum(axis=1, keepdims=True)
    return _Block(
        out_start=start, out_stop=stop, in_start=first, in_stop=last, weights=weights.astype(np.float32, order="C")
    )


@lru_cache(maxsize=32)
def _blocks(size_in: int, size_out: int, step: int) -> tuple[_Block, ...]:
    return tuple(_block(size_in, size_out, start, min(start + step, size_out)) for start in range(0, size_out, step))


@lru_cache(maxsize=32)
def _pixel_blocks(size_in: int, size_out: int, channels: int) -> tuple[_Block, ...]:
    """Blocks of the horizontal pass, with weights (inputs * C, outputs * C) for interleaved channels.

    Two thirds of such a matrix are zeros; that is cheaper than bringing the channels apart and together again.
    """
    blocks = []
    for block in _blocks(size_in, size_out, _COLUMNS_PER_BLOCK):
        weights = np.kron(block.weights, np.eye(channels, dtype=np.float32)).T
        blocks.append(
            _Block(
                out_start=block.out_start * channels,
                out_stop=block.out_stop * channels,
                in_start=block.in_start * channels,
                in_stop=block.in_stop * channels,
                weights=np.ascontiguousarray(weights),
            )
        )
    return tuple(blocks)


def _vertical(pixels: NDArray[np.uint8], height: int) -> NDArray[np.float32]:
    """(H, X) uint8 -> (height, X) float32. Only the rows of one block are float at a time."""
    rows = np.empty((height, pixels.shape[1]), np.float32)
    for block in _blocks(pixels.shape[0], height, _ROWS_PER_BLOCK):
        source = pixels[block.in_start : block.in_stop].astype(np.float32)
        step = max(16, _SINGLE_THREAD_PRODUCTS // block.weights.size)
        for x in range(0, source.shape[1], step):
            target = rows[block.out_start : block.out_stop, x : x + step]
            np.matmul(block.weights, source[:, x : x + step], out=target)
    return rows


def _horizontal(rows: NDArray[np.float32], width: int, channels: int) -> NDArray[np.float32]:
    """(height, W * C) -> (height, width * C)."""
    pixels = np.empty((rows.shape[0], width * channels), np.float32)
    for block in _pixel_blocks(rows.shape[1] // channels, width, channels):
        step = max(8, _SINGLE_THREAD_PRODUCTS // block.weights.size)
        for y in range(0, rows.shape[0], step):
            source = rows[y : y + step, block.in_start : block.in_stop]
            np.matmul(source, block.weights, out=pixels[y : y + step, block.out_start : block.out_stop])
    return pixels


def resize_image(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resample a picture.

    Args:
        pixels: (H, W, C) uint8, any strides.
        height: of the result [px].
        width: of the result [px].

    Returns:
        (height, width, C) uint8, C-contiguous, never the input itself.

    Raises:
        SpecError: not an (H, W, C) uint8 picture, or a size that is not positive.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or 0 in pixels.shape:
        raise SpecError(f"a picture must be uint8 (H, W, C); this is {pixels.dtype} {pixels.shape}")
    if height < 1 or width < 1:
        raise SpecError(f"cannot resize to {height}x{width}; height and width must be positive")
    if pixels.shape[:2] == (height, width):
        return pixels.copy(order="C")
    channels = pixels.shape[2]
    rows = _vertical(pixels.reshape(pixels.shape[0], -1), height)
    result = _horizontal(rows, width, channels)
    np.clip(np.rint(result, out=result), 0, 255, out=result)
    return result.astype(np.uint8).reshape(height, width, channels)
