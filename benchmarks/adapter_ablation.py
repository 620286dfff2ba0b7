"""Ranks refiners on a small teacher: the paper's adapter and ours, by width, input and losses.

    adapter_ablation.py cache --photos DIR --weights FILE --student-px 64 --cache DIR
                                                                           once: teacher maps and taps to disk, fp16
    adapter_ablation.py run   --cache DIR --out FILE.jsonl ROW...          trains, one after the other
    adapter_ablation.py ceiling --cache DIR                                the teachers themselves on the enlarged view
    adapter_ablation.py table FILE.jsonl                                   as a Markdown table

A row is text such as `adapter=conv,width=96,full_frame=1,teacher=early,steps=400`; what it leaves out is as in `Row`.
All rows have the same photographs, views, order of batches, learning rates and seed; only what they say differs. The
backbone is frozen, so its maps are computed once and a step is the refiner alone.

Three teachers come from one ViT-Ti/16: its last block (`last`), and the ViT cut after block 5 (`early`) or after block
3 (`earlier`). The last block's map at four times the size has little to do with the same block's map at the student's
size; the earlier ones' agree far better, as a teacher for this task must.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from brixel_edge.image.resize import resize_image
from brixel_edge.model.adapters import ConvSettings
from brixel_edge.network.adapter import resize_map
from brixel_edge.network.backbone import Backbone, load_backbone
from brixel_edge.network.conv_adapter import ConvRefiner
from brixel_edge.network.flops import count_gflop
from brixel_edge.network.student import backbone_view, build_refiner
from brixel_edge.training.losses import LossSettings, distillation_loss, edge_loss, principal_directions, spectral_loss

BACKBONE, WIDTH = "vit_tiny_patch16_224", 192
SCALE = 4
HELD_OUT = 30
VIEWS = 3  # of a training photograph: the centre, and two random crops with random flips
# Tapped blocks; the last of them is the target. The rule is a quarter, half, three quarters and the last.
TEACHERS = {"last": (3, 6, 9, 11), "early": (1, 3, 4, 5), "earlier": (0, 1, 2, 3)}
LAYERS = sorted({layer for taps in TEACHERS.values() for layer in taps})

# Of the conv adapter; a row without it is of the first one, with a stem of 3x3 convolutions or of 8 px patches.
CODE = 2

BATCH = 8
WARM_UP = 0.1  # part of the steps, at a tenth of the rate; then cosine to zero


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        adapter: `brixel` or `conv`.
        width: channels of `conv`.
        full_frame: `conv` reads the frame at the teacher's size.
        teacher: `earlier`, `early` or `last`.
        steps: of batch 8.
        edge_norm: `l1` or `mse`.
        spectral: weight of the spectral term.
        mask: of the spectral term, `high` or `authors`.
        seed: of the refiner's weights.
        rate: of learning, after the warm-up.
    """

    adapter: str = "conv"
    width: int = 96
    full_frame: bool = False
    teacher: str = "early"
    steps: int = 400
    edge_norm: str = "l1"
    spectral: float = 0.0
    mask: str = "high"
    seed: int = 0
    rate: float = 1e-3


def row_from_text(text: str) -> Row:
    """`key=value,...` -> Row, each value of its field's type."""
    defaults = dataclasses.asdict(Row())
    given = dict(part.split("=") for part in text.split(",") if part)
    unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        raise SystemExit(f"row {text!r} has {unknown[0]!r}, which is not one of {', '.join(defaults)}")
    typed = {
        key: bool(int(value)) if key == "full_frame" else type(defaults[key])(value) for key, value in given.items()
    }
    return Row(**typed)


# ---- cache ----


def normalised(pixels: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) as this backbone wants it."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def teacher_view(photograph: np.ndarray, side_px: int, random: np.random.Generator | None) -> np.ndarray:
    """A square part at the teacher's size `side_px`: the largest centred one, or a random one that is not enlarged."""
    height, width = photograph.shape[:2]
    side, y, x = min(height, width), 0.5, 0.5
    if random is not None:
        side = int(side * (side_px / side) ** random.random())
        y, x = random.random(2)
    top, left = round(y * (height - side)), round(x * (width - side))
    part = photograph[top : top + side, left : left + side]
    if random is not None and random.random() < 0.5:
        part = part[:, ::-1]
    return resize_image(np.ascontiguousarray(part), side_px, side_px)


def cache_arrays(folder: Path, student_px: int, count: int) -> dict[str, np.ndarray]:
    """New memory-mapped arrays for `count` views."""
    grid, teacher_px = student_px // 16, SCALE * student_px
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "frame": ((teacher_px, teacher_px, 3), np.uint8),
        "view": ((student_px, student_px, 3), np.uint8),
        "taps_bicubic": ((len(LAYERS), WIDTH, grid, grid), np.float16),
        "taps_mean": ((len(LAYERS), WIDTH, grid, grid), np.float16),
        **{f"teacher_{name}": ((WIDTH, SCALE * grid, SCALE * grid), np.float16) for name in TEACHERS},
    }
    return {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (count, *shape))
        for name, (shape, dtype) in shapes.items()
    }


def level_positions(backbone: Backbone) -> None:
    """Every position gets the mean of the learnt position embeddings, as if the ViT had none."""
    positions = backbone.vit.pos_embed
    with torch.no_grad():
        positions[:, 1:] = positions[:, 1:].mean(1, keepdim=True)


def make_cache(photos: Path, weights: Path, student_px: int, positions: str, folder: Path) -> None:
    """Held-out photographs first, one view each; then the views of the others."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    paths = sorted(photos.iterdir())
    paths = [paths[i] for i in random.permutation(len(paths))]
    jobs = [(path, False) for path in paths[:HELD_OUT]]
    jobs += [(path, view > 0) for path in paths[HELD_OUT:] for view in range(VIEWS)]
    backbone = load_backbone(BACKBONE, weights, tap_layers=tuple(LAYERS))
    if positions == "level":
        level_positions(backbone)
    arrays = cache_arrays(folder, student_px, len(jobs))
    with torch.inference_mode():
        for index, (path, is_random) in enumerate(tqdm(jobs, unit="view")):
            photograph = cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]
            frame = teacher_view(photograph, SCALE * student_px, random if is_random else None)
            view = resize_image(frame, student_px, student_px)
            pixels = normalised(frame[None])
            arrays["frame"][index], arrays["view"][index] = frame, view
            arrays["taps_bicubic"][index] = torch.cat(backbone(normalised(view[None]))).numpy()
            arrays["taps_mean"][index] = torch.cat(backbone(backbone_view(pixels, SCALE))).numpy()
            maps = backbone(pixels)
            for name, taps in TEACHERS.items():
                arrays[f"teacher_{name}"][index] = maps[LAYERS.index(taps[-1])][0].numpy()
    facts = {
        "student_px": student_px,
        "positions": positions,
        "weights": str(weights.resolve()),
        "views": [[path.name, is_random] for path, is_random in jobs],
    }
    (folder / "cache.json").write_text(json.dumps(facts))


# ---- training and evaluation ----


def build(row: Row, dim: int = WIDTH, vit: nn.Module | None = None) -> nn.Module:
    """The untrained refiner of a row, for a backbone of width `dim`, started from a ViT."""
    if row.adapter == "brixel":
        refiner = build_refiner(dim, 4, "brixel", row.seed)
    else:
        refiner = build_refiner(dim, 4, "conv", row.seed, ConvSettings(width=row.width, full_frame=row.full_frame))
    if isinstance(refiner, ConvRefiner) and vit is not None:
        refiner.adopt(vit)
    assert refiner is not None
    return refiner


class Views:
    """The cached views of one teacher."""

    def __init__(self, folder: Path, row: Row) -> None:
        arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
        self.student_px = arrays["view"].shape[1]
        self.layers = [LAYERS.index(layer) for layer in TEACHERS[row.teacher]]
        self.images = arrays["frame" if row.full_frame else "view"]
        self.taps = arrays["taps_mean" if row.full_frame else "taps_bicubic"]
        self.targets = arrays[f"teacher_{row.teacher}"]
        facts = json.loads((folder / "cache.json").read_text())
        self.positions = facts["positions"]
        self.vit = load_backbone(BACKBONE, facts["weights"]).vit
        self.photographs = (len(self.images) - HELD_OUT) // VIEWS

    def read(self, indices: list[int]) -> tuple[Tensor, list[Tensor], Tensor]:
        """Images, tapped maps and teacher maps of some views."""
        taps = [torch.from_numpy(self.taps[indices, layer]).float() for layer in self.layers]
        return normalised(self.images[indices]), taps, torch.from_numpy(self.targets[indices]).float()

    def batches(self, steps: int) -> Iterator[list[int]]:
        """Every photograph once an epoch, one of its views at random; the same order for every row."""
        random, waiting = np.random.default_rng(1), []
        for _ in range(steps):
            if len(waiting) < BATCH:
                waiting += random.permutation(self.photographs).tolist()
            chosen, waiting = waiting[:BATCH], waiting[BATCH:]
            yield [HELD_OUT + VIEWS * photograph + int(random.integers(VIEWS)) for photograph in chosen]


def train(refiner: nn.Module, views: Views, row: Row) -> float:
    """Seconds of `row.steps` steps."""
    torch.manual_seed(row.seed)  # stochastic depth of the paper's adapter
    settings = LossSettings(edge_norm=row.edge_norm, spectral=row.spectral, spectral_mask=row.mask)
    optimizer = torch.optim.Adam(refiner.parameters(), lr=row.rate)
    start, warm = time.perf_counter(), int(WARM_UP * row.steps)
    refiner.train()
    for step, indices in enumerate(tqdm(views.batches(row.steps), total=row.steps, mininterval=5)):
        phase = (step - warm) / (row.steps - warm)
        optimizer.param_groups[0]["lr"] = row.rate * (0.1 if step < warm else 0.5 * (1 + np.cos(np.pi * phase)))
        image, taps, target = views.read(indices)
        with torch.autocast("cpu", torch.bfloat16):
            student = refiner(image, taps)
        loss = distillation_loss(student, target, settings)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def agreement(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """How close dense maps are: cosine, centred cosine, L1, edge error on the teacher's 8 components, log spectrum."""
    mean = teacher.mean((0, 2, 3), keepdim=True)
    directions = principal_directions(teacher)
    return {
        "cosine": functional.cosine_similarity(student, teacher, dim=1).mean().item(),
        "centred": functional.cosine_similarity(student - mean, teacher - mean, dim=1).mean().item(),
        "l1": (student - teacher).abs().mean().item(),
        "edge": edge_loss(student, teacher, directions=directions).item(),
        "spectrum": spectral_loss(student, teacher, "high").item(),
    }


def evaluate(refiner: nn.Module | None, views: Views) -> dict[str, object]:
    """On the held-out photographs; the bilinear baseline without a refiner."""
    image, taps, target = views.read(list(range(HELD_OUT)))
    with torch.inference_mode():
        student = refiner.eval()(image, taps) if refiner else resize_map(taps[-1], *target.shape[-2:])
    photographs = [agreement(a, b) for a, b in zip(student.split(1), target.split(1), strict=True)]
    by_photograph = {key: [round(values[key], 4) for values in photographs] for key in ("cosine", "edge")}
    return {**agreement(student, target), "by_photograph": by_photograph}


def ceiling(folder: Path) -> dict[str, dict[str, float]]:
    """Every teacher on the held-out views, enlarged to its own size, against its true maps: what a view can tell it."""
    facts = json.loads((folder / "cache.json").read_text())
    backbone = load_backbone(BACKBONE, facts["weights"], tap_layers=tuple(LAYERS))
    if facts["positions"] == "level":
        level_positions(backbone)
    side = SCALE * facts["student_px"]
    small = np.load(folder / "view.npy", mmap_mode="r")[:HELD_OUT]
    enlarged = np.stack([cv2.resize(view, (side, side), interpolation=cv2.INTER_CUBIC) for view in small])
    with torch.inference_mode():
        maps = [backbone(normalised(view[None])) for view in enlarged]
    result = {}
    for name, taps in TEACHERS.items():
        seen = torch.cat([of_view[LAYERS.index(taps[-1])] for of_view in maps])
        target = torch.from_numpy(np.array(np.load(folder / f"teacher_{name}.npy", mmap_mode="r")[:HELD_OUT])).float()
        result[name] = agreement(seen, target)
    return result


def gflop(row: Row, dim: int, side_px: int) -> float:
    """Of a row's refiner for a backbone of width `dim` at a square view."""
    side = side_px * (SCALE if row.full_frame else 1)
    maps = [torch.zeros(1, dim, side_px // 16, side_px // 16)] * 4
    return count_gflop(build(row, dim), torch.zeros(1, 3, side, side), maps)


def result_of(row: Row, folder: Path) -> dict[str, object]:
    """Train and measure one row."""
    views = Views(folder, row)
    refiner = build(row, vit=views.vit)
    seconds = train(refiner, views, row)
    return {
        **dataclasses.asdict(row),
        "student_px": views.student_px,
        "positions": views.positions,
        "code": CODE,
        **evaluate(refiner, views),
        "bilinear": evaluate(None, views),
        "parameters": sum(parameter.numel() for parameter in refiner.parameters()),
        "gflop": gflop(row, WIDTH, views.student_px),
        "vit_s_gflop": gflop(row, 384, 256),
        "step_s": seconds / row.steps,
    }


# ---- the table ----

HEADER = (
    "| teacher | steps | seed | adapter | input | losses | cosine | centred | L1 | edge | GFLOP | ViT-S GFLOP | M |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
)


def numbers_text(values: dict) -> str:
    """The four averages."""
    return f"{values['cosine']:.4f} | {values['centred']:.4f} | {values['l1']:.3f} | {values['edge']:.2f}"


def teacher_text(record: dict) -> str:
    """Teacher, its sizes, and whether its positions are level."""
    level = ", level" if record["positions"] == "level" else ""
    return f"{record['teacher']}{level}, {record['student_px']} -> {SCALE * record['student_px']}"


def losses_text(record: dict) -> str:
    """`L1 + edge`, and what differs from the paper's reading."""
    edge = "edge" if record["edge_norm"] == "l1" else "edge squared"
    rate = f", rate {record['rate']:g}" if record.get("rate", 1e-3) != 1e-3 else ""
    spectral = f" + {record['spectral']:g} spectral ({record['mask']})" if record["spectral"] else ""
    return f"L1 + {edge}{spectral}{rate}"


def adapter_text(record: dict) -> str:
    """The paper's, or ours with its width; older code is named."""
    if record["adapter"] == "brixel":
        return "paper's"
    return f"conv {record['width']}" + (f", code {record['code']}" if record["code"] != CODE else "")


def table(records: list[dict]) -> str:
    """Markdown, with the bilinear baseline of each teacher first."""
    lines, seen = list(HEADER), set()
    for r in records:
        teacher = teacher_text(r)
        if teacher not in seen:
            seen.add(teacher)
            lines.append(f"| {teacher} | | | bilinear | | | {numbers_text(r['bilinear'])} | 0 | 0 | 0 |")
        what = f"{adapter_text(r)} | {'4x frame' if r['full_frame'] else 'view'} | {losses_text(r)}"
        cost = f"{r['gflop']:.2f} | {r['vit_s_gflop']:.2f} | {r['parameters'] / 1e6:.2f}"
        lines.append(f"| {teacher} | {r['steps']} | {r['seed']} | {what} | {numbers_text(r)} | {cost} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cache = commands.add_parser("cache")
    cache.add_argument("--photos", type=Path, required=True)
    cache.add_argument("--weights", type=Path, required=True)
    cache.add_argument("--student-px", type=int, default=128)
    cache.add_argument("--positions", choices=("learnt", "level"), default="learnt", help="level: all the same")
    cache.add_argument("--cache", type=Path, required=True)
    run = commands.add_parser("run")
    run.add_argument("--cache", type=Path, required=True)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("rows", nargs="+", type=row_from_text)
    commands.add_parser("ceiling").add_argument("--cache", type=Path, required=True)
    commands.add_parser("table").add_argument("file", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "cache":
        make_cache(arguments.photos, arguments.weights, arguments.student_px, arguments.positions, arguments.cache)
    elif arguments.command == "table":
        print(table([json.loads(line) for line in arguments.file.read_text().splitlines()]))
    elif arguments.command == "ceiling":
        print(json.dumps(ceiling(arguments.cache)))
    else:
        for row in arguments.rows:
            line = json.dumps(result_of(row, arguments.cache))
            with arguments.out.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)


if __name__ == "__main__":
    main()
