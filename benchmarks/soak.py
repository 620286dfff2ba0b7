"""Does a run grow? brixel-run at full speed for ten minutes: memory, threads, descriptors of its process each second.

    python benchmarks/soak.py [--seconds 600] [--out benchmarks/results/soak.json]

The model is the built-in one, or --model; the frames are those of the demo, without end, as fast as they are taken;
the pictures are painted and saved as video. After the warm-up (a fifth of the time) the memory's slope must stay below
1 MB a minute, and threads and descriptors must not change. Exit code 1 where they do.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CHILD = "--child"
LARGEST_SLOPE_MB_PER_MIN = 1.0
WARM_UP = 0.2


class EndlessDemo:
    """The demo's frames as a file that has no end."""

    is_live, fps, skipped, description = False, 30.0, 0, "the demo without end"

    def __init__(self) -> None:
        from brixel_edge.runtimes.sources.demo import DemoSource

        self._demo, self._numbers = DemoSource(), itertools.count()

    def read(self) -> Any:
        """The next one, at once."""
        from brixel_edge.runtimes.sources.frames import Frame

        number, now = next(self._numbers), time.monotonic()
        return Frame(
            image=self._demo.picture(number), index=number, t_capture_s=now, t_media_s=number / self.fps, capture_s=0.0
        )

    def interrupt(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""


def child(arguments: list[str]) -> int:
    """brixel-run with these frames."""
    from brixel_edge.commands import run as command
    from brixel_edge.runtimes.stream import run

    run.open_source = lambda *_, **__: EndlessDemo()
    return command.main(arguments)


def sample(pid: int) -> tuple[float, int, int]:
    """Resident MB, threads and descriptors of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    rss_mb = int(status["VmRSS"].split()[0]) * 1024 / 1e6
    return rss_mb, int(status["Threads"]), sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def watch(process: subprocess.Popen[str], seconds: float) -> list[tuple[float, float, int, int]]:
    """(time, memory, threads, descriptors), once a second while the process runs."""
    start_s, rows = time.monotonic(), []
    while process.poll() is None:
        elapsed_s = time.monotonic() - start_s
        # Not its start and not its end: files are opened and closed there.
        if elapsed_s < seconds:
            rows.append((elapsed_s, *sample(process.pid)))
        time.sleep(1)
    return rows


def verdict(rows: list[tuple[float, float, int, int]]) -> dict[str, Any]:
    """Figures after the warm-up."""
    table = np.array(rows)
    table = table[table[:, 0] >= WARM_UP * table[-1, 0]]
    slope = np.polyfit(table[:, 0] / 60, table[:, 1], 1)[0]
    return {
        "samples": len(table),
        "rss_mb": [float(table[:, 1].min()), float(table[:, 1].max())],
        "slope_mb_per_min": float(slope),
        "threads": [int(table[:, 2].min()), int(table[:, 2].max())],
        "descriptors": [int(table[:, 3].min()), int(table[:, 3].max())],
    }


def problems(figures: dict[str, Any]) -> list[str]:
    """What is not flat."""
    found = []
    if figures["slope_mb_per_min"] > LARGEST_SLOPE_MB_PER_MIN:
        found.append(f"memory grows by {figures['slope_mb_per_min']:.2f} MB a minute")
    found += [
        f"{name} went from {figures[name][0]} to {figures[name][1]}"
        for name in ("threads", "descriptors")
        if figures[name][0] != figures[name][1]
    ]
    return found


def main() -> int:
    if sys.argv[1:2] == [CHILD]:
        return child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--model", help="model directory or .onnx file (default: built in)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, help="keep the figures as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        what = ["--headless", "--quiet", "--json", "--backend", given.backend, "--duration", str(given.seconds)]
        what += ["--save", f"{folder}/soak.mp4", *([given.model] if given.model else [])]
        process = subprocess.Popen([sys.executable, __file__, CHILD, *what], stdout=subprocess.PIPE, text=True)
        try:
            rows = watch(process, given.seconds)
        finally:
            process.kill()
        output, _ = process.communicate()
    if process.returncode:
        return process.returncode
    report = json.loads(output)
    kept = ("model", "backend", "processed", "fps")
    figures = {"seconds": given.seconds, **{key: report[key] for key in kept}, **verdict(rows)}
    print(json.dumps(figures, indent=2))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for problem in (found := problems(figures)):
        print(f"soak: {problem}", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
