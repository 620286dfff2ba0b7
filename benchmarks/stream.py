"""What a stream costs: frames a second of brixel-run on a video, against the bare engine on the same frames.

    python benchmarks/stream.py vits16.brixel drive.mp4
    python benchmarks/stream.py --age int8.brixel        ages of a network camera's frames; see `age`

The bare engine gets frames that are decoded and resized beforehand, one after the other. Both run in processes of their
own, in turns; the ratio is taken within each turn. Peak memory is that of the brixel-run process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import age

BARE = "--bare"
BACKENDS = ["ort", "openvino"]


def bare_fps(model: str, video: str, backend: str, threads: int, frames: int) -> float:
    """Frames a second of `infer` alone."""
    from brixel_edge.image.fit import fit_frame
    from brixel_edge.model.bundle import resolve_model
    from brixel_edge.runtimes.engines import open_runtime
    from brixel_edge.runtimes.runtime import RuntimeSettings
    from brixel_edge.runtimes.sources.video import VideoFile

    resolved, source = resolve_model(model), VideoFile(video)
    images = []
    while len(images) < frames and (frame := source.read()) is not None:
        images.append(fit_frame(frame.image, resolved.spec.image).image)
    source.close()
    runtime = open_runtime(resolved.graph, backend, RuntimeSettings(threads=threads))
    runtime.infer(images[0])
    start = time.perf_counter()
    for image in images:
        runtime.infer(image)
    return len(images) / (time.perf_counter() - start)


def output_of(command: list[str]) -> Any:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(run.stderr)
    return json.loads(run.stdout)


def measure(model: str, video: str, backend: str, threads: int, frames: int) -> tuple[float, dict[str, Any]]:
    """One turn: fps of the bare engine, and the report of brixel-run."""
    common = ["--backend", backend, "--threads", str(threads), "--frames", str(frames)]
    bare = output_of([sys.executable, __file__, BARE, model, video, *common])
    program = [sys.executable, "-m", "brixel_edge.commands.run", model, "--source", video]
    return bare, output_of([*program, *common, "--headless", "--quiet", "--json"])


def compare(model: str, video: str, backend: str, threads: int, frames: int, rounds: int) -> dict[str, Any]:
    """All turns of one backend, printed and returned."""
    turns = [measure(model, video, backend, threads, frames) for _ in range(rounds)]
    ratios = [report["fps"] / bare for bare, report in turns]
    row = {
        "backend": backend,
        "bare_fps": statistics.median(bare for bare, _ in turns),
        "stream_fps": statistics.median(report["fps"] for _, report in turns),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "peak_memory_mb": max(report["peak_memory_bytes"] for _, report in turns) / 1e6,
        "rounds": rounds,
    }
    print(
        f"{backend:<10} bare {row['bare_fps']:6.2f} fps   stream {row['stream_fps']:6.2f} fps   "
        f"ratio {row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f} in {rounds} turns)   "
        f"peak {row['peak_memory_mb']:.0f} MB",
        flush=True,
    )
    return row


def keep(path: Path | None, figures: dict[str, Any]) -> None:
    """As JSON, where it was asked for."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    if sys.argv[1:2] == [age.CHILD]:
        age.child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="model directory or .onnx file (with --age by default the built-in)")
    parser.add_argument("video", nargs="?", help="video file")
    parser.add_argument("--age", action="store_true", help="ages over RTSP instead; takes no video")
    parser.add_argument("--seconds", type=float, default=20, help="of each turn of --age")
    parser.add_argument("--backend", nargs="+", default=BACKENDS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="keep the figures as JSON")
    parser.add_argument(BARE, action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.age:
        if given.backend == BACKENDS:
            given.backend = ["auto"]
        keep(given.out, age.compare_ages(given))
        return
    if given.model is None or given.video is None:
        parser.error("a model and a video, or --age")
    if given.bare:
        print(json.dumps(bare_fps(given.model, given.video, given.backend[0], given.threads, given.frames)))
        return
    print(
        f"{Path(given.model).name} on {Path(given.video).name}, {given.threads} threads, {given.frames} frames a turn"
    )
    rows = [
        compare(given.model, given.video, backend, given.threads, given.frames, given.rounds)
        for backend in given.backend
    ]
    keep(given.out, {"model": Path(given.model).name, "rows": rows})


if __name__ == "__main__":
    main()
