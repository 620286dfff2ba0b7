"""The course of several `brixel-train` runs: a Markdown table and a picture of curves.

    python benchmarks/training_curves.py collect RUN... --out results/training_runs.json
    python benchmarks/training_curves.py draw results/training_runs.json --out ../docs/training_curves.png

`collect` takes from each run's `train.json` what is shown here and prints the table; a run is called as its folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

METRICS = {"cosine": "cosine", "l1": "L1", "edge": "edge error"}


def course_of(folder: Path) -> dict[str, Any]:
    """Settings, length and evaluations of one run."""
    record = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    settings = record["settings"]
    return {
        "name": folder.name,
        "adapter": settings["adapter"] + (" full frame" if (settings["conv"] or {}).get("full_frame") else ""),
        "taps": settings["tap_layers"],
        "crops": settings["views"]["crops"],
        "flips": settings["views"]["flips"],
        "batch": settings["batch"],
        "photographs": record["data"]["photographs"],
        "held_out": record["val"]["photographs"],
        "minutes": round(record["seconds"] / 60, 1),
        "threads": record["threads"],
        "evaluations": record["evaluations"],
        "best_step": record["best_step"],
    }


def table(runs: list[dict[str, Any]]) -> str:
    """The best evaluation of each run beside the bilinear baseline, as Markdown."""
    lines = ["| run | step | cosine | L1 | edge error |", "|---|---|---|---|---|"]
    shown: set[str] = set()
    for run in runs:
        best = next(item for item in run["evaluations"] if item["step"] == run["best_step"])
        if (teacher := str(run["taps"])) not in shown:
            shown.add(teacher)
            lines.append(f"| bilinear, {_taps(run)} | | {_cells(best['baseline'])} |")
        lines.append(f"| {run['name']} | {best['step']} | {_cells(best['student'])} |")
    return "\n".join(lines)


def _taps(run: dict[str, Any]) -> str:
    return f"taps {', '.join(map(str, run['taps']))}" if run["taps"] else "the table's taps"


def _cells(metrics: dict[str, float]) -> str:
    return f"{metrics['cosine']:.4f} | {metrics['l1']:.3f} | {metrics['edge']:.2f}"


def draw(runs: list[dict[str, Any]], out: Path) -> None:
    """A row of curves per teacher, a column per metric; the dotted line is the bilinear baseline."""
    import matplotlib.pyplot as plt

    teachers = list(dict.fromkeys(str(run["taps"]) for run in runs))
    figure, axes = plt.subplots(len(teachers), len(METRICS), figsize=(11, 3.2 * len(teachers)), squeeze=False)
    for row, teacher in zip(axes, teachers, strict=True):
        chosen = [run for run in runs if str(run["taps"]) == teacher]
        for axis, (metric, title) in zip(row, METRICS.items(), strict=True):
            for run in chosen:
                steps = [item["step"] for item in run["evaluations"]]
                axis.plot(steps, [item["student"][metric] for item in run["evaluations"]], label=run["name"])
            axis.axhline(chosen[0]["evaluations"][-1]["baseline"][metric], color="0.4", linestyle=":", label="bilinear")
            axis.set(title=f"{title}, {_taps(chosen[0])}", xlabel=f"steps of batch {chosen[0]['batch']}")
            axis.grid(color="0.9")
        row[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(out, dpi=90)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    collect = commands.add_parser("collect")
    collect.add_argument("runs", nargs="+", type=Path)
    collect.add_argument("--out", type=Path, required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("file", type=Path)
    drawing.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "draw":
        draw(json.loads(arguments.file.read_text(encoding="utf-8")), arguments.out)
        return 0
    runs = [course_of(folder) for folder in arguments.runs]
    arguments.out.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
