"""What a run knows of itself and writes down: where it ran, on which data, how well it does."""

from __future__ import annotations

from dataclasses import dataclass

from brixel_edge.training.step import Arithmetics


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Photographs of training or of validation.

    Attributes:
        hash: sha256 that changes when the data does.
        hash_of: what was hashed.
        photographs: how many can be read; None where they are streamed.
        left_out: how many cannot, by reason; None where they are streamed.
        too_small: how many are smaller than every view; None where that is not counted.
        shards: how many are streamed; None where photographs are indexed.
    """

    hash: str
    hash_of: str
    photographs: int | None = None
    left_out: dict[str, int] | None = None
    too_small: int | None = None
    shards: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run is made on.

    Attributes:
        data: of training.
        val: held out.
        backbone_hash: sha256 over the backbone's state.
        device: name of the GPU, or `cpu`.
        processes: of the run.
        threads: of torch in one process.
        arithmetic: of student and teacher.
    """

    data: DataFacts
    val: DataFacts
    backbone_hash: str
    device: str
    processes: int
    threads: int
    arithmetic: Arithmetics


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One evaluation, against the teacher's map.

    Attributes:
        step: steps done before it.
        baseline: mean metrics of the enlarged coarse map, by name.
        student: mean metrics of the student, by name.
        photographs: how many were held out.
    """

    step: int
    baseline: dict[str, float]
    student: dict[str, float]
    photographs: int
