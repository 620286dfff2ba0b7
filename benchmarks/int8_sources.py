"""Does an accepted INT8 plan hold on a source that it has never seen? Each source is left out once, whole.

    python benchmarks/int8_sources.py DATA [--size 64] [--blocks 6] [--adapters none conv] [--out FILE]

DATA has `photos/NAME_000.jpg`, `camvid/*/images/SEQUENCE_0.jpg`, `rgbd_7scenes/*.color.jpg`, `videos/` and the weights
`backbones/vit_tiny_patch16_224.safetensors`. A source is the photographs of one NAME, one SEQUENCE, one film, one room.
A plan is made from frames of all other sources; where it is accepted, the INT8 graph must hold its bounds on the source
left out. Trained weights matter here: random ones have no outliers. Rows are written as they come; a second call goes
on where the first was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from brixel_edge.calib.engines import OrtEngine
from brixel_edge.calib.frames import Image, store_frames
from brixel_edge.calib.graph import load_graph
from brixel_edge.calib.proof import Bounds, cells_over
from brixel_edge.calib.quantize import Settings, quantize
from brixel_edge.errors import ParityError
from brixel_edge.image.reading import read_image
from brixel_edge.image.resize import resize_image
from brixel_edge.machine.files import write_atomically
from brixel_edge.model.adapters import AdapterKind
from brixel_edge.proof.confidence import ELSEWHERE
from brixel_edge.proof.parity import compare_cells

MIN_IMAGES = 8  # a source with fewer stays among those that calibrate
BACKBONE = "vit_tiny_patch16_224"


def sources_in(data: Path, size: int, most: int) -> dict[str, list[Image]]:
    """Frames (size, size, 3) of every source, `most` at most, evenly from its beginning to its end."""
    files: dict[str, list[Path]] = {}
    for path in sorted([*data.glob("photos/*.jpg"), *data.glob("camvid/*/images/*.jpg")]):
        files.setdefault(f"{path.relative_to(data).parts[0]}/{path.name.split('_')[0]}", []).append(path)
    files["rgbd_7scenes"] = sorted(data.glob("rgbd_7scenes/*.color.jpg"))
    found = {
        name: [resize_image(_read(path), size, size) for path in _evenly(paths, most)]
        for name, paths in files.items()
        if paths
    }
    films = {f"videos/{path.name}": _film(path, size, most) for path in sorted((data / "videos").iterdir())}
    return found | {name: frames for name, frames in films.items() if frames}


def _read(path: Path) -> Image:
    pixels = read_image(path)
    if pixels is None:
        raise SystemExit(f"{path} is not a picture that can be read; take it out")
    return pixels


def _evenly(items: Sequence[Path], most: int) -> list[Path]:
    return [
        items[position] for position in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).astype(int))
    ]


def _film(path: Path, size: int, most: int) -> list[Image]:
    capture = cv2.VideoCapture(str(path))
    step = max(1, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // most)
    frames: list[Image] = []
    position = 0
    while capture.grab() and len(frames) < most:
        if position % step == 0:
            frames.append(resize_image(capture.retrieve()[1].astype(np.uint8), size, size))
        position += 1
    return frames


def float_graph(data: Path, adapter: AdapterKind, size: int, blocks: int, path: Path) -> None:
    """The trained ViT-Ti, cut to its first blocks, as graph.fp32.onnx."""
    import torch

    from brixel_edge.export.graph.fuse import FusedModel, spec_from_student
    from brixel_edge.export.graph.to_onnx import onnx_from_model
    from brixel_edge.network.backbone import load_backbone
    from brixel_edge.network.student import Student, build_refiner

    torch.manual_seed(0)
    taps = tuple(int(block) for block in np.linspace(0, blocks - 1, 4))
    backbone = load_backbone(BACKBONE, data / "backbones" / f"{BACKBONE}.safetensors", tap_layers=taps)
    student = Student(backbone, build_refiner(backbone.spec.width, len(taps), adapter)).eval()
    spec = spec_from_student(student, size, size, adapter, name=BACKBONE)
    onnx_from_model(FusedModel(student, spec).eval(), spec, path)


def left_out(graph: Path, sources: dict[str, list[Image]], name: str, count: int) -> dict[str, object]:
    """Quantise on the other sources; what was promised, and what the source left out gives."""
    begin_s, seed = time.perf_counter(), zlib.crc32(name.encode())
    pool = [frame for other, frames in sources.items() if other != name for frame in frames]
    chosen = np.random.default_rng(seed).permutation(len(pool))[:count]
    frames = store_frames([pool[position] for position in chosen], pool[0].shape[:2])
    row: dict[str, object] = {"source": name, "images": len(sources[name]), "frames": len(frames)}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(targets=("ort",), seed=seed % 1000, threads=1, curve_points=0)
        try:
            report = quantize(graph, frames, out_dir=Path(folder), settings=settings)
        except ParityError as error:
            return {**row, "accepted": False, "reason": str(error), "seconds": round(time.perf_counter() - begin_s)}
        (proven,) = report.lowered
        new, outputs = [frame[None] for frame in sources[name]], load_graph(graph).float_outputs
        reference = cells_over(OrtEngine(graph, threads=1), new, outputs)
        candidate = cells_over(OrtEngine(Path(folder) / proven.file, threads=1), new, outputs)
    found = {output: compare_cells(reference[output], candidate[output]) for output in outputs}
    bounds = report.plan.bounds
    return {
        **row,
        "accepted": True,
        "holds": all(entry.cosine_mean >= bounds.mean and entry.cosine_p01 >= bounds.p01 for entry in found.values()),
        "int8_nodes": len(report.plan.integers),
        "nodes": len(report.plan.pareto) - 1,
        "int8_macs_share": round(report.plan.int8_macs_share, 3),
        "rounds": report.rounds,
        "panels": report.frames["panels"],
        "judged": {
            name: {"mean": entry.parity.cosine_mean, "p01": entry.parity.cosine_p01, "lower": asdict(entry.lower)}
            for name, entry in proven.outputs.items()
        },
        "left_out": {name: {"mean": entry.cosine_mean, "p01": entry.cosine_p01} for name, entry in found.items()},
        "seconds": round(time.perf_counter() - begin_s),
    }  # fmt: skip


def summary(rows: Sequence[dict[str, object]]) -> dict[str, object]:
    """How many plans were accepted, and how many of them hold."""
    accepted = [row for row in rows if row["accepted"]]
    return {
        "plans": len(rows),
        "accepted": len(accepted),
        "hold": sum(bool(row["holds"]) for row in accepted),
        "broken": [f"{row['adapter']} {row['source']}" for row in accepted if not row["holds"]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of pictures and weights")
    parser.add_argument("--size", type=int, default=64, help="side of the image [px]")
    parser.add_argument("--blocks", type=int, default=6, help="blocks of ViT-Ti that are kept")
    parser.add_argument("--adapters", nargs="+", choices=("none", "conv"), default=["none"])
    parser.add_argument("--count", type=int, default=96, help="frames of the other sources")
    parser.add_argument("--images", type=int, default=30, help="frames of a source, at most")
    parser.add_argument("--limit", type=int, help="leave out so many sources only")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/int8_sources.json"))
    arguments = parser.parse_args()
    setup = {"backbone": BACKBONE, "blocks": arguments.blocks, "size_px": arguments.size, "frames": arguments.count,
             "bounds": asdict(Bounds()), "elsewhere": ELSEWHERE, "target": "ort"}  # fmt: skip
    done = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"setup": setup, "rows": []}
    if done["setup"] != setup:
        raise SystemExit(f"{arguments.out} is of another setup; name another --out")
    rows: list[dict[str, object]] = done["rows"]
    sources = sources_in(arguments.data, arguments.size, arguments.images)
    names = [name for name, frames in sources.items() if len(frames) >= MIN_IMAGES][: arguments.limit]
    with tempfile.TemporaryDirectory() as folder:
        for adapter in arguments.adapters:
            graph = Path(folder) / f"{adapter}.fp32.onnx"
            float_graph(arguments.data, adapter, arguments.size, arguments.blocks, graph)
            known = {row["source"] for row in rows if row["adapter"] == adapter}
            for name in names:
                if name in known:
                    continue
                rows.append({"adapter": adapter, **left_out(graph, sources, name, arguments.count)})
                record = {"setup": setup, "summary": summary(rows), "rows": rows}
                write_atomically(arguments.out, json.dumps(record, indent=1) + "\n")
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps(summary(rows), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
