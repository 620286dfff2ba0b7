"""Does a run grow? brixel-run at full speed for ten minutes: memory, threads, descriptors of its process each second.

    python benchmarks/soak.py [--seconds 600] [--out benchmarks/results/soak.json]

The model is the built-in one, or --model; the frames are those of the demo, without end, as fast as they are taken;
the pictures are painted and saved as video. After the warm-up (a fifth of the time, 30 s at least) the memory's slope
must stay below 1 MB a minute; threads and descriptors must be as few in the last fifth as in the first one after the
warm-up. The least of each fifth counts: a file that is open while it is looked at, such as /proc/self/status for the
line of each second, is no leak. What stays open is named. Exit code 1 where something grows.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

CHILD = "--child"
LARGEST_SLOPE_MB_PER_MIN = 1.0
# Of the time: the warm-up, and what is compared.
FIFTH, WARM_UP_S = 0.2, 30.0
FEWEST = 10


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
    from brixel_edge.runtimes.stream.feature_stream import OpenSources

    assert callable(run.open_sources)
    run.open_sources = lambda *_: OpenSources(sources=[EndlessDemo()], names=["demo"])
    return command.main(arguments)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A process at one moment.

    Attributes:
        time_s: since the start.
        rss_mb: resident memory.
        threads: how many.
        descriptors: what is open, by name.
    """

    time_s: float
    rss_mb: float
    threads: int
    descriptors: tuple[str, ...]


def sample(pid: int, time_s: float) -> Sample:
    """Resident MB, threads and descriptors of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    names = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            names.append(str(entry.readlink()))
    rss_mb = int(status["VmRSS"].split()[0]) * 1024 / 1e6
    return Sample(time_s=time_s, rss_mb=rss_mb, threads=int(status["Threads"]), descriptors=tuple(sorted(names)))


def watch(process: subprocess.Popen[str], seconds: float, every_s: float = 1.0) -> list[Sample]:
    """Samples while the process runs."""
    start_s, rows = time.monotonic(), []
    while process.poll() is None:
        elapsed_s = time.monotonic() - start_s
        # Not its start and not its end: files are opened and closed there.
        if elapsed_s < seconds:
            with contextlib.suppress(FileNotFoundError, KeyError):  # it ends just now
                rows.append(sample(process.pid, elapsed_s))
        time.sleep(every_s)
    return rows


def recording(rows: list[Sample]) -> list[Sample]:
    """From the moment at which pictures are saved: before that a model was loaded, however long that took."""
    start_s = next((row.time_s for row in rows if any(".part." in name for name in row.descriptors)), None)
    if start_s is None:
        raise SystemExit("soak: nothing was saved")
    return [replace(row, time_s=row.time_s - start_s) for row in rows if row.time_s >= start_s]


def verdict(rows: list[Sample], warm_up_s: float = WARM_UP_S) -> dict[str, Any]:
    """Figures after the warm-up."""
    span_s = FIFTH * rows[-1].time_s
    table = [row for row in rows if row.time_s >= max(span_s, warm_up_s)]
    if len(table) < FEWEST:
        raise SystemExit(f"soak: {len(table)} samples after a warm-up of {warm_up_s:.0f} s are too few; --seconds 90")
    begin = [row for row in table if row.time_s < table[0].time_s + span_s]
    end = [row for row in table if row.time_s >= rows[-1].time_s - span_s]
    slope = np.polyfit([row.time_s / 60 for row in table], [row.rss_mb for row in table], 1)[0]
    new = _always_open(end) - _always_open(begin)
    always = set(_always_open(table))
    return {
        "samples": len(table),
        "rss_mb": [min(row.rss_mb for row in table), max(row.rss_mb for row in table)],
        "slope_mb_per_min": float(slope),
        "threads": [min(row.threads for row in part) for part in (begin, end)],
        "most_threads": max(row.threads for row in table),
        "descriptors": [min(len(row.descriptors) for row in part) for part in (begin, end)],
        "most_descriptors": max(len(row.descriptors) for row in table),
        "stay_open": sorted(new.elements()),
        "sometimes_open": sorted({name for row in table for name in row.descriptors} - always),
    }


def _always_open(rows: list[Sample]) -> Counter[str]:
    """What every sample has."""
    always = Counter(rows[0].descriptors)
    for row in rows[1:]:
        always &= Counter(row.descriptors)
    return always


def problems(figures: dict[str, Any]) -> list[str]:
    """What is not flat."""
    found = []
    if figures["slope_mb_per_min"] > LARGEST_SLOPE_MB_PER_MIN:
        found.append(f"memory grows by {figures['slope_mb_per_min']:.2f} MB a minute")
    found += [
        f"{name} went from {figures[name][0]} to {figures[name][1]}"
        for name in ("threads", "descriptors")
        if figures[name][0] < figures[name][1]
    ]
    if figures["stay_open"]:
        found.append(f"stays open: {', '.join(figures['stay_open'])}")
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
    figures = {"seconds": given.seconds, **{key: report[key] for key in kept}, **verdict(recording(rows))}
    print(json.dumps(figures, indent=2))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for problem in (found := problems(figures)):
        print(f"soak: {problem}", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
