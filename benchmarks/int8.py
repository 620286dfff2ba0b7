"""INT8 against the float engines of this CPU, from one plan, side by side in one run.

    python benchmarks/int8.py NAME.brixel --frames FOLDER [--rounds 11] [--threads 2 1] [--out results/int8_NAME.json]

Quantises the model, unless --int8 names a folder where that was done, and times ONNX Runtime (fp32, INT8, dynamic INT8)
and OpenVINO (fp32, bf16, INT8 with the rest in fp32, INT8 as runtimes run it) call by call in turn. A
ratio is the median over the rounds of that round's ratio to fp32 of the same backend.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import openvino

from brixel_edge.calib.choice.speed import speed_verdict
from brixel_edge.calib.engines import Engine, OpenVinoEngine, OrtEngine
from brixel_edge.calib.frames import Image
from brixel_edge.calib.lowering.dynamic import quantize_dynamic
from brixel_edge.calib.quantize import Settings, quantize
from brixel_edge.calib.sources import calibration_frames
from brixel_edge.machine.memory import peak_rss_bytes
from brixel_edge.model.bundle import resolve_model
from brixel_edge.proof.parity import compare

# Worker threads of the session before spin on their core for a while: at a pause of 0.02 s each call of ONNX Runtime on
# two threads took 48 ms longer than alone, at 0.2 s none. OpenVINO's do not spin.
PAUSE_S = 0.2
WARM_UP = 2


def timed(engines: dict[str, Engine], image: Image, rounds: int) -> dict[str, list[float]]:
    """Latencies [ms] by round."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(WARM_UP + rounds):
        for name, engine in engines.items():
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            engine.run(image)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: values[WARM_UP:] for name, values in times.items()}


def rows(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median and least latency, and speed-up over the first engine by paired rounds."""
    first = np.array(next(iter(times.values())))
    return {
        name: {
            "median_ms": round(float(np.median(values)), 2),
            "least_ms": round(min(values), 2),
            "speedup": round(float(np.median(first / np.array(values))), 3),
            "speedup_of_least": round(float(first.min() / min(values)), 3),
        }
        for name, values in times.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="model directory or .onnx of brixel-export; default: the built-in one")
    parser.add_argument("--frames", help="folder, glob or video to calibrate on")
    parser.add_argument("--int8", type=Path, help="folder of an earlier run, to time it again")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="thread counts to time with")
    parser.add_argument("--count", type=int, default=64, help="frames to calibrate on")
    parser.add_argument("--work", type=Path, default=Path("int8.work"), help="folder for the INT8 graphs")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    model = resolve_model(arguments.model)
    folder = arguments.int8 or arguments.work
    frames = calibration_frames(arguments.frames, model.spec.image, count=arguments.count)
    record: dict[str, object] = {"model": model.name, "size": [model.spec.image.height, model.spec.image.width]}
    if arguments.int8 is None:
        settings = Settings(targets=("ort", "openvino"), threads=max(arguments.threads))
        report = quantize(model.graph, frames, out_dir=folder, settings=settings)
        record["int8"] = report.to_json()
    quantize_dynamic(model.graph, folder / "dynamic.onnx")
    record["timed"] = [
        {
            "threads": threads,
            "onnxruntime": measure_onnxruntime(model.graph, folder, frames[0], threads, arguments.rounds),
            "openvino": measure_openvino(model.graph, folder, frames[0], threads, arguments.rounds),
        }
        for threads in arguments.threads
    ]
    record["dynamic_fidelity"] = dynamic_fidelity(model.graph, folder, list(frames.pick(range(8))))
    record["machine"] = {
        "cpu": cpu_name(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
        "onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__, "rounds": arguments.rounds,
        "peak_rss_bytes": peak_rss_bytes(),
    }  # fmt: skip
    text = json.dumps(record, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    return 0


def measure_onnxruntime(graph: Path, folder: Path, image: Image, threads: int, rounds: int) -> dict[str, object]:
    """ONNX Runtime: float, static and dynamic INT8."""
    engines: dict[str, Engine] = {
        "fp32": OrtEngine(graph, threads=threads),
        "int8": OrtEngine(folder / "graph.int8.ort.onnx", threads=threads),
        "dynamic int8": OrtEngine(folder / "dynamic.onnx", threads=threads),
    }
    return {"latency": rows(timed(engines, image, rounds))}


def dynamic_fidelity(graph: Path, folder: Path, frames: list[Image]) -> dict[str, float | bool | int | None]:
    """How close dynamic INT8 is to the float graph; of static INT8 the plan's verification says it."""
    engines = [OrtEngine(path) for path in (graph, folder / "dynamic.onnx")]
    a, b = ([engine.run(frame)["features"] for frame in frames] for engine in engines)
    return compare(a, b).to_json()


def cpu_name() -> str:
    """The processor's own name, where Linux tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def measure_openvino(graph: Path, folder: Path, image: Image, threads: int, rounds: int) -> dict[str, object]:
    """OpenVINO: two float precisions, INT8 with either for the rest, and whether INT8 is worth it."""
    int8 = folder / "graph.int8.onnx"
    engines: dict[str, Engine] = {
        "fp32": OpenVinoEngine(graph, threads=threads, precision="f32"),
        "bf16": OpenVinoEngine(graph, threads=threads, precision="bf16"),
        "int8, rest fp32": OpenVinoEngine(int8, threads=threads, precision="f32"),
        "int8": OpenVinoEngine(int8, threads=threads),
    }
    found = rows(timed(engines, image, rounds))
    floats = {name: found[name]["median_ms"] for name in ("fp32", "bf16")}
    verdict = speed_verdict(found["int8"]["median_ms"], floats)
    return {"latency": found, "verdict": verdict.message}


if __name__ == "__main__":
    sys.exit(main())
