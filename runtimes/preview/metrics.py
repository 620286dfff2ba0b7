"""The figures of a run as Prometheus text (exposition format 0.0.4)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_COUNTERS = {
    "frames_in": "Frames that the source delivered.",
    "processed": "Frames with features.",
    "dropped": "Frames that a newer one replaced or that were too old.",
    "gaps": "Times that a source was lost or silent and came back.",
    "repeated": "Frames that equal the one before.",
}
_QUANTILES = {"p50_ms": "0.5", "p95_ms": "0.95", "p99_ms": "0.99"}


def metrics_text(report: dict[str, Any], matches: dict[str, dict[str, Any]], viewers: int) -> str:
    """Write them down.

    Args:
        report: of the run so far, as JSON values.
        matches: score and threshold of each prototype in the newest frame.
        viewers: of the page.
    """
    about = {name: str(report.get(name)) for name in ("model", "backend", "engine", "precision")}
    parts = [_family("info", "gauge", "What runs.", [(about, 1)])]
    state = str(report["health"]["state"])
    parts.append(_family("state", "gauge", "State of the worst source.", [({"state": state}, 1)]))
    parts += [_family(f"{name}_total", "counter", text, [({}, report[name])]) for name, text in _COUNTERS.items()]
    parts.append(_family("waiting", "gauge", "Frames in hand: in - processed - dropped.", [({}, report["waiting"])]))
    parts.append(_family("fps", "gauge", "Frames with features a second, over the run.", [({}, report["fps"])]))
    stages = [
        ({"stage": stage, "quantile": quantile}, stats[name] / 1e3)
        for stage, stats in report["stages"].items()
        for name, quantile in _QUANTILES.items()
    ]
    parts.append(_family("stage_seconds", "gauge", "Time by stage, over the run.", stages))
    if report.get("peak_memory_bytes") is not None:
        parts.append(_family("peak_memory_bytes", "gauge", "Of the process.", [({}, report["peak_memory_bytes"])]))
    for name, text in (("score", "Cosine of the best cell to a prototype."), ("found", "Whether it is in the frame.")):
        samples = [({"prototype": who}, float(one[name])) for who, one in matches.items()]
        parts.append(_family(f"prototype_{name}", "gauge", text, samples))
    parts.append(_family("preview_viewers", "gauge", "Viewers of the page.", [({}, viewers)]))
    return "".join(parts)


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[dict[str, str], float]]) -> str:
    lines = [f"brixel_{name}{_labels(labels)} {_number(value)}\n" for labels, value in samples]
    return f"# HELP brixel_{name} {text}\n# TYPE brixel_{name} {kind}\n{''.join(lines)}" if lines else ""


def _labels(labels: dict[str, str]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    inside = ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.10g}"
