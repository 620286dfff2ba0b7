"""Model directories of tiny graphs, whose features are known by hand; every precision computes the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tiny_model
from receipts import receipt_of

from brixel_edge.model.bundle import write_receipt
from brixel_edge.model.receipt_sections import Bench, BenchRow, Measured
from brixel_edge.proof.proof import proof_from_references, save_proof


def photograph(number: int) -> np.ndarray:
    """(1, 32, 48, 3) uint8."""
    return np.random.default_rng(number).integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)


def features_of(image: np.ndarray) -> np.ndarray:
    """(1, 4, 8, 12) by hand."""
    means = tiny_model.cell_means(image[0].astype(float))
    constant = np.full((*means.shape[:2], 1), tiny_model.CONSTANT)
    return np.concatenate([means, constant], axis=2).transpose(2, 0, 1)[None].astype(np.float32)


def measured(cpu: str | None, p50_ms: dict[str, float]) -> Measured:
    """What a bench of the export would say."""
    rows = tuple(
        BenchRow(
            name=name, p50_ms=value, p99_ms=value, per_s=1.0, peak_bytes=1, device_bytes=None, load_s=1.0, calls=1,
            error=None,
        )
        for name, value in p50_ms.items()
    )  # fmt: skip
    return Measured(bench=Bench(machine={"cpu": cpu}, rows=rows))


def save(
    root: Path,
    graphs: Sequence[str] = ("graph.fp32.onnx",),
    engine: str = "onnx",
    photographs: int = 3,
    has_proof: bool = True,
    **sections,
) -> Path:
    """A directory with these graphs, made for `--engine`."""
    root.mkdir(parents=True)
    for name in graphs:
        tiny_model.save(root / name)
    images = [photograph(number) for number in range(photographs)]
    if has_proof:
        names = [f"{number}.png" for number in range(photographs)]
        save_proof(proof_from_references(names, images, [features_of(image) for image in images]), root / "proof.npz")
    receipt = receipt_of(tiny_model.spec(), **sections)
    write_receipt(root, dataclasses.replace(receipt, requested=dataclasses.replace(receipt.requested, engine=engine)))
    return root
