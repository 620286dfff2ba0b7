"""Cosines between the cells of a feature map and some vectors: one matrix product in fp32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError


def cosines(values: NDArray[np.floating], vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """The cosine of every cell to every vector.

    Args:
        values: (h, w, D).
        vectors: (n, D).

    Returns:
        (n, h, w) float32 in [-1, 1]; 0 where a feature has no length, or is no number.

    Raises:
        SpecError: vectors of another width.
    """
    h, w, dim = values.shape
    queries = np.asarray(vectors, dtype=np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise SpecError(f"a feature of this map has shape ({dim},), the vector has {queries.shape[1:]}")
    # A view where the channels lie apart in memory, as graphs give them, and where they lie together.
    cells = values.reshape(h * w, dim).astype(np.float32, copy=False)
    squares = np.einsum("nd,nd->n", cells, cells)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.sqrt(squares)
    out = np.zeros((len(queries), h * w), np.float32)
    np.divide(queries @ cells.T, lengths, out=out, where=lengths > 0)
    return np.clip(out, -1, 1, out=out).reshape(len(queries), h, w)
