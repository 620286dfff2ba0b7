"""What is made once of the photographs: pyramid, filters, cells, teacher. Each is a file; what is there is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nano.cells import map_cells, measure_cells
from nano.descriptor import Filters, learn_filters, load_filters, save_filters
from nano.objectives import Cells, cut_cells
from nano.photographs import Pyramid, open_pyramid
from nano.start import Sample
from nano.teacher import Teacher, fit_teacher, load_teacher, save_teacher
from nano.windows import GRIDS, Windows


@dataclass(frozen=True)
class Prepared:
    """Everything that training reads."""

    pyramid: Pyramid
    filters: Filters
    cells: Cells
    teacher: Teacher


def prepare(data: Path, work: Path, seed: int = 0, batches: int = 150) -> Prepared:
    """Make what is not there yet in `work` from the permitted photographs of `data`.

    Args:
        data: with photos/ and MANIFEST.csv.
        work: where everything is kept.
        seed: of the windows to which the teacher is fitted.
        batches: of these windows, 1408 tokens each.
    """
    pyramid = open_pyramid(work, data)
    if not (work / "filters.pt").exists():
        save_filters(learn_filters(pyramid), work / "filters.pt")
    filters = load_filters(work / "filters.pt")
    with torch.inference_mode():
        measure_cells(pyramid, filters, work, data)
    cells = map_cells(pyramid, work)
    if not (work / "teacher.pt").exists():
        with torch.inference_mode():
            save_teacher(fit_teacher(_windows(pyramid, cells, seed, batches)), work / "teacher.pt")
    return Prepared(pyramid, filters, cells, load_teacher(work / "teacher.pt"))


def _windows(pyramid: Pyramid, cells: Cells, seed: int, batches: int) -> Iterator[torch.Tensor]:
    """Measurements of random windows of all grids."""
    rng = np.random.default_rng(seed)
    windows = Windows(pyramid, 1408)
    for _ in range(batches):
        yield from cut_cells(cells, windows.draw(rng)).split(1)


def start_sample(prepared: Prepared, seed: int = 0, tokens: int = 36_000) -> Sample:
    """Windows of one grid for the closed start."""
    grid = GRIDS[1]
    windows = Windows(prepared.pyramid, tokens, grids=(grid,), augmented=False)
    batch = windows.draw(np.random.default_rng(seed))
    with torch.inference_mode():
        targets = torch.cat([prepared.teacher(part).numbers for part in cut_cells(prepared.cells, batch).split(32)])
    return Sample(batch.images.clone(), targets.clone())
