"""The plot of an evaluation: score over GFLOP and over milliseconds, with the seeds' spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brixel_edge.errors import BackendMissing
from brixel_edge.evaluation.titles import factor_of, title_of
from brixel_edge.machine.files import replacing

LINE_PX = 11  # from a name to the one above it
SAME_COST, SAME_SCORE = 1.1, 0.05  # names of points closer than that would lie on each other


def plot(path: Path, record: dict[str, Any]) -> None:
    """Draw the main score of every row over what the row costs.

    Args:
        path: PNG to write.
        record: of `results.record_of`.

    Raises:
        BackendMissing: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendMissing("the plot needs matplotlib: pip install 'brixel-edge[eval]'") from error
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key, unit in zip(figure.subplots(1, 2, sharey=True), ("gflop", "ms"), ("GFLOP", "ms"), strict=True):
        _draw(axes, record, key)
        axes.set_xscale("log")
        axes.set_xlabel(f"{unit} a picture")
        axes.grid(alpha=0.3)
        axes.margins(x=0.25, y=0.15)
    better = "" if record["is_higher_better"] else ", lower is better"
    figure.axes[0].set_ylabel(title_of(record["main"]) + better)
    if not record["is_higher_better"]:
        figure.axes[0].invert_yaxis()
    protocol, seeds = record["protocol"]["name"], record["seeds"]
    figure.suptitle(
        f"{record['task']}, {record['model']}: {record['probe']} probe, protocol {protocol}, "
        f"{seeds} seed{'s' if seeds > 1 else ''}"
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})


def _draw(axes: Any, record: dict[str, Any], key: str) -> None:
    """The rows whose cost is known, each in a colour of its own that is the same in both pictures."""
    name, factor = record["main"], factor_of(record["main"])
    known = [
        (number, row)
        for number, row in enumerate(record["rows"])
        if row[key] is not None and row["scores"][name]["mean"] is not None
    ]
    places = [(row[key], factor * row["scores"][name]["mean"]) for _, row in known]
    for (number, row), (x, y), line in zip(known, places, lines_of(places), strict=True):
        deviation, colour = factor * row["scores"][name]["deviation"], f"C{number % 10}"
        axes.errorbar([x], [y], yerr=[deviation], fmt="o", capsize=3, color=colour)
        axes.annotate(row["features"], (x, y), xytext=(6, 4 + LINE_PX * line), textcoords="offset points",
                      color=colour, fontsize=8)  # fmt: skip


def lines_of(places: Sequence[tuple[float, float]]) -> list[int]:
    """For every (cost, score) the line that its name is written on: names of near points must not lie on each other.

    Rows that share a map cost the same and often score nearly alike.
    """
    scores = [score for _, score in places]
    near = SAME_SCORE * (max(scores) - min(scores)) if scores else 0.0
    return [
        sum(
            max(cost, other) <= SAME_COST * min(cost, other) and abs(score - past) <= near for other, past in places[:i]
        )
        for i, (cost, score) in enumerate(places)
    ]
