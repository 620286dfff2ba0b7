"""What is measured on photographs held out, against numbers by hand."""

import numpy as np
import pytest
import torch

from brixel_edge.training.losses import LossSettings
from brixel_edge.training.prefetch import Batch
from brixel_edge.training.processes import Processes
from brixel_edge.training.settings import TrainSettings
from brixel_edge.training.setup import run_from_settings
from brixel_edge.training.validation import METRICS, candidate_maps, map_metrics


def enlarged(rows, count):
    """Linear interpolation along the first axis; cell centres at half-integers, the edges repeated."""
    places = (np.arange(count) + 0.5) * len(rows) / count - 0.5
    places = places.clip(0, len(rows) - 1)
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, len(rows) - 1)
    share = (places - below).reshape(-1, *(1,) * (rows.ndim - 1))
    return rows[below] * (1 - share) + rows[above] * share


def test_the_baseline_is_the_coarse_map_enlarged_between_cell_centres(settings: TrainSettings):
    distiller = run_from_settings(settings, Processes(), "cpu").distiller
    distiller.refiner.eval()
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 64, 3), np.uint8)
    batch = Batch(names=("a",), student=pixels, teacher=None, samples=(), after={})
    baseline, student = candidate_maps(distiller, batch, (8, 16))
    with torch.no_grad():
        coarse = distiller.backbone(distiller.normalised(pixels))[-1][0].permute(1, 2, 0).numpy()
    expected = enlarged(enlarged(coarse, 8).swapaxes(0, 1), 16).swapaxes(0, 1)
    assert np.allclose(baseline[0].permute(1, 2, 0), expected, atol=1e-5)
    assert student.shape == baseline.shape


def sobel(x):
    """Edges of (h, w) in both directions, written out."""
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    h, w = x.shape
    windows = np.array([[x[i : i + 3, j : j + 3] for j in range(w - 2)] for i in range(h - 2)])
    return (windows * kernel).sum((2, 3)), (windows * kernel.T).sum((2, 3))


def test_the_edge_error_is_seen_in_the_teachers_directions():
    """Teacher and candidate vary most in different features, of which the first two count."""
    random = np.random.default_rng(0)
    spread = np.array([8, 4, 1, 0.5, 0.2, 0.1])
    teacher, candidate = (random.standard_normal((6, 7, 9)) * s[:, None, None] for s in (spread, spread[::-1]))
    tokens = teacher.reshape(6, -1) - teacher.reshape(6, -1).mean(1, keepdims=True)
    directions = np.linalg.svd(tokens, full_matrices=False)[0][:, :2]
    gap = np.einsum("dhw,dk->khw", candidate - teacher, directions)
    edges = [sobel(component) for component in gap]
    expected = sum(np.mean([np.abs(pair[axis]).mean() for pair in edges]) for axis in (0, 1))
    maps = (torch.from_numpy(x[None]).float() for x in (candidate, teacher))
    found = map_metrics(*maps, LossSettings(components=2))
    assert found[METRICS.index("edge")].item() == pytest.approx(expected, rel=1e-4)
