"""The probe's agreement, and the cells that are kept of a map."""

import numpy as np

from brixel_edge.proof.probe import probe_agreement, sampled_cells


def test_probe_agrees_with_itself_and_not_with_noise():
    rng = np.random.default_rng(0)
    features = (
        rng.standard_normal((2000, 16)).astype(np.float32) + 4 * np.eye(16, dtype=np.float32)[rng.integers(0, 6, 2000)]
    )
    noise = rng.standard_normal(features.shape).astype(np.float32)
    assert probe_agreement([features], [features]) == 1
    assert probe_agreement([features], [features + 0.01 * noise]) > 0.98
    assert probe_agreement([features], [rng.permutation(features)]) < 0.5


def test_cells_are_feature_vectors():
    grid = np.arange(24, dtype=np.float32).reshape(1, 4, 2, 3)
    assert (sampled_cells(grid)[1] == grid[0, :, 0, 1]).all()
    tokens = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert (sampled_cells(tokens) == tokens[0]).all()
    wide = np.arange(2 * 100 * 100, dtype=np.float32).reshape(1, 2, 100, 100)
    sampled = sampled_cells(wide)
    assert sampled.shape == (4096, 2) and len(np.unique(sampled[:, 0])) == 4096
    assert (sampled[:, 1] - sampled[:, 0] == 10000).all()
