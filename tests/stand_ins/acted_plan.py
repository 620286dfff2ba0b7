"""Plans built in an acted world, and what they give by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import small_graphs

from brixel_edge.export.engine.build import build
from brixel_edge.export.engine.settings import BuildRequest, EngineSettings
from brixel_edge.model.engine_file import read_report, report_path
from brixel_edge.model.spec import ImageSpec, ModelSpec

IMAGE = np.arange(32 * 48 * 3, dtype=np.int64).reshape(1, 32, 48, 3).astype(np.uint8)  # 18 times 0 to 255
MEAN = 127.5  # of 0 to 255; the acted engine gives mean + place in the list of tensors, features being number 1


def build_plan(folder: Path, precision: str = "fp32", graph: str = "vit", **settings) -> Path:
    """Build a plan in the world that is acted now; its report lies beside it."""
    model = getattr(small_graphs, graph)(*([] if graph == "quantized" else [precision]))
    source = small_graphs.save(model, folder / f"graph.{precision}.onnx")
    request = BuildRequest(
        graph=source, plan=folder / "part", kind="trt", precision=precision, settings=EngineSettings(**settings)
    )
    report = build(request, lambda event: None)
    plan = folder / report.identity.file_name
    request.plan.rename(plan)
    report_path(plan).write_text(json.dumps(report.to_json()), encoding="utf-8")
    return plan


def change_report(plan, **changes):
    """Write other values into the report of a plan."""
    report = read_report(plan)
    assert report is not None
    changed = dataclasses.replace(report, **changes)
    report_path(plan).write_text(json.dumps(changed.to_json()), encoding="utf-8")


def spec_of(height=32, width=48, grid=(4, 6), dim=16):
    image = ImageSpec(height=height, width=width, mean=(0, 0, 0), std=(1, 1, 1))
    return ModelSpec(
        backbone="x", patch_px=8, dim=dim, tap_layers=(0,), adapter="none", image=image, grid=grid, licence="none"
    )
