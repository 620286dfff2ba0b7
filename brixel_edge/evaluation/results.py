"""The results: a record for machines, a table for people, a plot of score over cost."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from typing import Protocol as Shape

from brixel_edge.evaluation.metrics import Scores, spread_of
from brixel_edge.evaluation.plot import plot
from brixel_edge.evaluation.protocol import Protocol
from brixel_edge.evaluation.settings import EvalSettings
from brixel_edge.evaluation.titles import factor_of, title_of
from brixel_edge.machine.files import write_atomically
from brixel_edge.model.receipt_sections import Evaluation

RECORD_NAME, TABLE_NAME, PLOT_NAME = "eval.json", "eval.md", "eval.png"
RECORD_VERSION = 1
PACKAGES = ("brixel-edge", "torch", "timm", "numpy", "onnxruntime", "opencv-python-headless")


class Named(Shape):
    """What of a metric is shown first."""

    @property
    def main(self) -> str:
        """Name of the score."""
        ...

    @property
    def is_higher_better(self) -> bool:
        """Of that score."""
        ...


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of feature.

    Attributes:
        name: of the kind.
        input_size: (height, width) that its network is fed [px], of the common view.
        grid: (h, w) that the probe reads.
        dim: D.
        gflop: of one picture; None where it cannot be told.
        milliseconds: of one picture, on this machine.
        scores: one for each seed.
        engine: file and backend, of an exported model's engine.
    """

    name: str
    input_size: tuple[int, int]
    grid: tuple[int, int]
    dim: int
    gflop: float | None
    milliseconds: float
    scores: tuple[Scores, ...]
    engine: tuple[str, str] | None = None


def record_of(
    settings: EvalSettings,
    protocol: Protocol,
    metric: Named,
    rows: Sequence[Row],
    counts: dict[str, int],
    processes: int,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The results as plain JSON values."""
    return {
        "eval_version": RECORD_VERSION,
        "task": settings.task,
        "data": settings.data.name,
        "model": settings.model,
        "weights": Path(settings.backbone_weights).name,
        "tap_layers": None if settings.tap_layers is None else list(settings.tap_layers),
        "pictures": counts,
        "protocol": {name: value for name, value in vars(protocol).items()},
        **facts,
        "seeds": len(rows[0].scores),
        "processes": processes,
        "main": metric.main,
        "is_higher_better": metric.is_higher_better,
        "tools": _tools(),
        "rows": [_row_record(row) for row in rows],
    }


def _tools() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _row_record(row: Row) -> dict[str, Any]:
    scores = {}
    for name in row.scores[0].values:
        values = [score.values[name] for score in row.scores]
        mean, deviation = spread_of(values)
        scores[name] = {"mean": _finite(mean), "deviation": _finite(deviation), "values": [_finite(v) for v in values]}
    per_class = {}
    for name in row.scores[0].per_class:
        values = [value for score in row.scores if (value := score.per_class[name]) is not None]
        per_class[name] = spread_of(values)[0] if values else None
    return {
        "features": row.name,
        "input": list(row.input_size),
        "grid": list(row.grid),
        "dim": row.dim,
        "gflop": row.gflop,
        "ms": row.milliseconds,
        "engine": None if row.engine is None else dict(zip(("file", "backend"), row.engine, strict=True)),
        "scores": scores,
        "per_class": per_class,
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def evaluations_of(record: dict[str, Any]) -> list[Evaluation]:
    """The main score of each engine, as lines of its receipt."""
    name = record["main"]
    return [
        Evaluation(
            **row["engine"],
            task=record["task"],
            data=record["data"],
            protocol=record["protocol"]["name"],
            probe=record["probe"],
            score=name,
            mean=row["scores"][name]["mean"],
            deviation=row["scores"][name]["deviation"],
            seeds=record["seeds"],
            pictures=record["pictures"]["test"],
        )
        for row in record["rows"]
        if row["engine"] is not None and row["scores"][name]["mean"] is not None
    ]


def table(record: dict[str, Any]) -> str:
    """The results as a Markdown table, with what is needed to read it."""
    names = list(record["rows"][0]["scores"])
    head = ["features", "input", "grid", "GFLOP", "ms", *(title_of(name) for name in names)]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in record["rows"]:
        gflop = "" if row["gflop"] is None else f"{row['gflop']:.2f}"
        cells = [row["features"], _size(row["input"]), _size(row["grid"]), gflop, f"{row['ms']:.1f}"]
        lines.append(_line([*cells, *(_score(name, row["scores"][name], record["seeds"]) for name in names)]))
    pictures = record["pictures"]
    count = f"{pictures['train']} pictures to train on, {pictures['test']} to test"
    lines += [
        "",
        f"{record['task']}, {record['model']} ({record['weights']}), protocol {record['protocol']['name']}, "
        f"{record['probe']} probe, {count}, {record['seeds']} seed{'s' if record['seeds'] > 1 else ''}; "
        "ms: one picture on this machine, for comparison within this table only",
    ]
    if "head" in record:
        head = record["head"]
        lines += ["", f"head: {head['file']} ({head['kind']}, {head['outputs']} outputs), for brixel-export --head"]
    return "\n".join(lines + _class_table(record))


def _class_table(record: dict[str, Any]) -> list[str]:
    classes = list(record["rows"][0]["per_class"])
    if not classes:
        return []
    head = ["IoU of", *(row["features"] for row in record["rows"])]
    lines = ["", _line(head), _line(["---"] * len(head))]
    for name in classes:
        values = [row["per_class"][name] for row in record["rows"]]
        lines.append(_line([name, *("" if value is None else f"{100 * value:.1f}" for value in values)]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _score(name: str, entry: dict[str, Any], seeds: int) -> str:
    if entry["mean"] is None:
        return ""
    factor = factor_of(name)
    digits = 3 if factor == 1 else 1
    text = f"{factor * entry['mean']:.{digits}f}"
    return text if seeds < 2 else f"{text} ± {factor * entry['deviation']:.{digits}f}"


def write_results(out: Path, record: dict[str, Any]) -> None:
    """Write record, table and plot.

    Raises:
        BackendMissing: matplotlib is not installed.
        OSError: nothing can be written there.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / RECORD_NAME, json.dumps(record, indent=2, allow_nan=False) + "\n")
    write_atomically(out / TABLE_NAME, table(record) + "\n")
    plot(out / PLOT_NAME, record)
