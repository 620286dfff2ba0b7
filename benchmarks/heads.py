"""What a fused head saves: the graph of features with the head outside, against the head in the graph.

    python benchmarks/heads.py [--backbone vit_small_patch16_dinov3] [--rounds 15] [--out benchmarks/results/heads.json]

Each engine runs in a process of its own, in turns with the others; the head outside is a product of matrices in numpy.
Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from brixel_edge.export.graph.flops import gflop_of_engine
from brixel_edge.export.graph.fuse import FusedModel, spec_from_student
from brixel_edge.export.graph.to_onnx import onnx_from_model
from brixel_edge.machine.memory import MIB
from brixel_edge.model.head import Head, distinct_colours
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.model.spec import AdapterKind
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.feature_origin import feature_origin_of
from brixel_edge.network.student import Student, load_student
from brixel_edge.runtimes.bench.bench import Schedule, measure
from brixel_edge.runtimes.engines import Engine

ADAPTERS = ("brixel", "conv")
CLASSES = (11, 150)


def head_of(student: Student, classes: int, keeps_features: bool) -> Head:
    origin = feature_origin_of(student, "student")
    weight = np.random.default_rng(0).normal(size=(classes, origin.dim)).astype(np.float32)
    spec = HeadSpec(
        kind="segmentation",
        outputs=classes,
        classes=tuple(map(str, range(classes))),
        colours=distinct_colours(classes),
        keeps_features=keeps_features,
    )
    return Head(spec=spec, weight=weight, bias=np.zeros(classes, np.float32), origin=origin)


def write_graphs(student: Student, adapter: AdapterKind, size: int, folder: Path) -> dict[str, Path]:
    """Graphs by what they give."""
    heads: dict[str, Head | None] = {"features": None}
    for classes in CLASSES:
        heads[f"{classes} classes"] = head_of(student, classes, keeps_features=False)
        heads[f"features and {classes} classes"] = head_of(student, classes, keeps_features=True)
    paths = {}
    for name, head in heads.items():
        spec = spec_from_student(student, size, size, adapter, name="x", head=None if head is None else head.spec)
        paths[name] = folder / f"{adapter}-{name.replace(' ', '-')}" / "graph.bare.onnx"
        paths[name].parent.mkdir()
        onnx_from_model(FusedModel(student, spec, head=head).eval(), spec, paths[name])
    return paths


def outside_ms(dim: int, cells: int, classes: int, rounds: int) -> float:
    """Median time of the head in numpy, on a map as a runtime gives it: channels apart."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(dim, cells)).astype(np.float32)
    weight = rng.normal(size=(classes, dim)).astype(np.float32)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        weight @ features
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch16_dinov3")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backends", default="ort,openvino")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    backbone = load_backbone(arguments.backbone)
    rows = []
    for adapter in ADAPTERS:
        student = load_student(backbone, "random", adapter)
        height, width = student.grid(arguments.size, arguments.size)
        with tempfile.TemporaryDirectory() as folder:
            graphs = write_graphs(student, adapter, arguments.size, Path(folder))
            gflop = {name: gflop_of_engine(path) for name, path in graphs.items()}
            engines = {
                (backend, name): Engine(
                    path=path,
                    backend=backend,
                    size=(arguments.size, arguments.size),
                    threads=arguments.threads,
                    openvino_precision="f32" if backend == "openvino" else "auto",
                )
                for backend in arguments.backends.split(",")
                for name, path in graphs.items()
            }
            found = measure(list(engines.values()), Schedule(warmup=2, rounds=arguments.rounds, calls=1))
        outside = {
            classes: outside_ms(backbone.spec.width, height * width, classes, arguments.rounds) for classes in CLASSES
        }
        print(f"\n{arguments.backbone}, adapter {adapter}, {arguments.size} px, {height} x {width} cells")
        print(f"{'':11}{'the graph gives':32}{'GFLOP':>8}{'ms':>9}{'peak MiB':>10}")
        for (backend, name), row in zip(engines, found, strict=True):
            if row.p50_ms is None or row.peak_bytes is None:
                raise SystemExit(f"{backend}, {name}: {row.error}")
            print(f"{backend:11}{name:32}{gflop[name]:8.2f}{row.p50_ms:9.1f}{row.peak_bytes / MIB:10.0f}")
            rows.append(
                {"adapter": adapter, "backend": backend, "gives": name, "gflop": gflop[name], "p50_ms": row.p50_ms,
                 "peak_mib": row.peak_bytes / MIB}
            )  # fmt: skip
        print("the head outside, in numpy: " + ", ".join(f"{n} classes {ms:.2f} ms" for n, ms in outside.items()))
        rows.append({"adapter": adapter, "backend": "numpy", "outside_ms": outside})
    if arguments.out:
        machine = {"machine": platform.machine(), "threads": arguments.threads, "rounds": arguments.rounds}
        record = {"backbone": arguments.backbone, "size": arguments.size, **machine, "rows": rows}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
