"""Draws the curve.json of an INT8 export: loss of cosine and latency, from all-integer to all-float.

python benchmarks/int8_curve.py NAME.brixel [--out curve.png]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

TITLES = {"ort": "ONNX Runtime", "openvino": "OpenVINO", "trt": "ONNX Runtime, as TensorRT rounds"}
FLOOR = 1e-8  # of what a logarithmic axis shows


def draw_curve(record: dict[str, Any], curve_ms: Mapping[str, float], path: Path) -> None:
    """Draw losses over nodes in INT8, predicted as a line and measured as marks, and latency beneath.

    Args:
        record: what curve.json holds.
        curve_ms: nodes in INT8 -> latency [ms]; empty for none.
        path: picture to write.
    """
    title, chosen = TITLES[record["target"]], record["chosen_int8_nodes"]
    timed = [(int(nodes), latency_ms) for nodes, latency_ms in curve_ms.items()]
    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 if timed else 1, 1, sharex=True, squeeze=False)[:, 0]
    predicted = [(point["int8_nodes"], max(1 - point["cosine"], FLOOR)) for point in record["predicted"]]
    axes[0].semilogy(*zip(*predicted, strict=True), label="predicted from one sweep")
    measured = [(point["int8_nodes"], max(1 - point["measured"], FLOOR)) for point in record["measured"]]
    axes[0].semilogy(*zip(*measured, strict=True), "o", label=f"measured in {title}")
    axes[0].axhline(1 - record["bound"], linestyle="--", color="grey", label=f"bound {record['bound']}")
    axes[0].axvline(chosen, linestyle=":", color="grey", label=f"chosen: {chosen} nodes")
    axes[0].set_title(f"INT8 of graph {record['graph_sha256'][:12]}")
    axes[0].set_ylabel("1 - mean cosine")
    axes[0].legend(fontsize="small")
    if timed:
        latencies = [latency_ms for _, latency_ms in timed]
        axes[1].plot([nodes for nodes, _ in timed], latencies, "o-")
        axes[1].set_ylabel(f"latency in {title} [ms]")
        axes[1].set_ylim(0, 1.15 * max(latencies))
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("linears and convolutions in INT8, the rest in floating point")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model directory of brixel-export --engine onnx-int8 --calib")
    parser.add_argument("--out", type=Path, default=Path("curve.png"))
    arguments = parser.parse_args()
    curve, receipt = (
        json.loads((arguments.model / name).read_text(encoding="utf-8")) for name in ("curve.json", "model.json")
    )
    draw_curve(curve, receipt["measured"]["int8"].get("curve_ms") or {}, arguments.out)


if __name__ == "__main__":
    main()
