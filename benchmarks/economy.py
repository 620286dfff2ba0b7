"""What the backbone on every N-th frame costs and what it loses, on films, by how much moves.

python benchmarks/economy.py MODEL.brixel FILM... [--frames 60] [--every 1,2,3,5] [--json OUT]

MODEL is a directory of `brixel-export --split`. Every N sees the same frames, in one run: each frame goes through all
of them in turn, so that times are side by side. Cosines are of each cell to the one graph's, as they are and with the
map's mean feature removed. Motion is the mean absolute difference to the frame before [grey levels]; its thirds are
those of all frames. Costs are means, since the median frame of N = 3 has no run of the backbone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from brixel_edge.runtimes.model import Model, open_model
from brixel_edge.runtimes.sources.video import VideoFile


def cosines(values, reference) -> np.ndarray:
    cells, expected = (map_.reshape(-1, map_.shape[-1]).astype(np.float64) for map_ in (values, reference))
    lengths = np.linalg.norm(cells, axis=1) * np.linalg.norm(expected, axis=1)
    return np.einsum("nd,nd->n", cells, expected) / np.maximum(lengths, 1e-12)


def frames_of(film: str, most: int):
    """The first frames of a film, with their motion; the first one has none and is left out of it."""
    source, before = VideoFile(film), None
    try:
        for _ in range(most):
            if (frame := source.read()) is None:
                return
            grey = cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY)
            yield frame.image, None if before is None else float(np.abs(grey.astype(int) - before).mean())
            before = grey.astype(int)
    finally:
        source.close()


def measured(models: dict[int, Model], whole: Model, films: list[str], most: int) -> list[dict]:
    rows = []
    for film in films:
        for number, (frame, motion) in enumerate(frames_of(film, most)):
            reference = whole(frame).values
            centre = reference.reshape(-1, reference.shape[-1]).mean(axis=0)
            for every, model in models.items():
                fitted = model.prepare(frame)
                start_s = time.perf_counter()
                values = model.features(fitted, t_capture_s=0.0, is_after_gap=number == 0).values
                spent_ms = 1e3 * (time.perf_counter() - start_s)
                plain, centred = cosines(values, reference), cosines(values - centre, reference - centre)
                rows.append(
                    {
                        "film": Path(film).name, "frame": number, "motion": motion, "every": every, "ms": spent_ms,
                        "cosine": float(plain.mean()), "p01": float(np.percentile(plain, 1)),
                        "centred": float(centred.mean()),
                    }
                )  # fmt: skip
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """By N: cost relative to N = 1, cosines over all frames and by thirds of motion; times from the second round on."""
    moving = [row for row in rows if row["motion"] is not None]
    low, high = np.percentile([row["motion"] for row in moving], (100 / 3, 200 / 3))
    parts = {
        "little": lambda motion: motion < low, "some": lambda motion: low <= motion < high,
        "much": lambda motion: motion >= high,
    }  # fmt: skip
    base_ms = np.mean([row["ms"] for row in moving if row["every"] == 1])
    found = []
    for every in dict.fromkeys(row["every"] for row in rows):
        own = [row for row in moving if row["every"] == every]
        by_motion = {
            name: float(np.mean([row["centred"] for row in own if is_part(row["motion"])]))
            for name, is_part in parts.items()
        }
        found.append(
            {
                "every": every, "cost": float(np.mean([row["ms"] for row in own]) / base_ms),
                "cosine": float(np.mean([row["cosine"] for row in own])),
                "p01": float(np.mean([row["p01"] for row in own])),
                "centred": float(np.mean([row["centred"] for row in own])),
                "centred_by_motion": by_motion, "motion_thirds": [float(low), float(high)],
            }
        )  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("films", nargs="+")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--every", default="1,2,3,5")
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        opened = {
            int(every): stack.enter_context(
                open_model(arguments.model, arguments.backend, precision="fp32", backbone_every=int(every))
            )
            for every in arguments.every.split(",")
        }
        whole = stack.enter_context(open_model(arguments.model, arguments.backend, precision="fp32"))
        rows = measured(opened, whole, arguments.films, arguments.frames)
    found = summary(rows)
    low, high = found[0]["motion_thirds"]
    print(f"{len(rows) // len(opened)} frames of {len(arguments.films)} films; thirds of motion: {low:.2f}, {high:.2f}")
    print(f"{'N':>3}{'cost':>8}{'cosine':>9}{'worst 1 %':>11}{'centred':>9}{'little':>9}{'some':>9}{'much':>9}")
    for row in found:
        parts = "".join(f"{value:>9.4f}" for value in row["centred_by_motion"].values())
        figures = f"{row['cost']:>8.2f}{row['cosine']:>9.4f}{row['p01']:>11.4f}{row['centred']:>9.4f}"
        print(f"{row['every']:>3}{figures}{parts}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
