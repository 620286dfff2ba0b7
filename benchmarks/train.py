"""Images a second of our training step against a plain re-statement of the authors'.

    python benchmarks/train.py                                        CPU: ViT-Ti, student 128, teacher 512, batch 4
    python benchmarks/train.py --device cuda --backbone vit_base_patch16_dinov3 --size 256 --batch 16

Both train the same network on the same photographs with the same terms, in turns; ratios are those of a turn, and the
median of all turns is printed. "Authors" is what their published code does a step, written down plainly: photographs
are decoded when they are needed, padded or resized to cover and cropped at the teacher's size, normalised, and the
student's view is made from that; the teacher runs under inference mode, in bf16 on a GPU and in fp32 elsewhere;
principal components come from a randomised decomposition of a third of the tokens; both maps are projected and
filtered; the FFT is whole; extractors are computed again in the backward pass. The parts of their adapter that have no
effect are left out, which is to their advantage. Weights are random: they do not change the time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from brixel_edge.network.adapter import Extractor
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.student import Student, build_refiner
from brixel_edge.training.batches import IndexedData
from brixel_edge.training.losses import LossSettings
from brixel_edge.training.photograph_index import index_photographs
from brixel_edge.training.prefetch import prefetched
from brixel_edge.training.processes import Processes
from brixel_edge.training.samples import SampleMaker
from brixel_edge.training.step import Arithmetics, Distiller, draw_drop_paths, has_fast_bf16
from brixel_edge.training.teacher_cache import TeacherCache
from brixel_edge.training.views import ViewSettings

SEED = 0
PHOTOGRAPHS = 16
Block = Callable[[int], int]
"""Trains so many steps; gives how many photographs it saw."""


# ---- the authors' step ----


def authors_view(path: Path, side: int, mean: Tensor, std: Tensor) -> Tensor:
    """Pad what is too small with black, resize to cover, crop the centre, normalise: (3, side, side)."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if min(image.size) < side:
        padded = Image.new("RGB", (max(image.width, side), max(image.height, side)))
        padded.paste(image, ((padded.width - image.width) // 2, (padded.height - image.height) // 2))
        image = padded
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    pixels = torch.from_numpy(np.array(image.crop((left, top, left + side, top + side)))).permute(2, 0, 1)
    return (pixels.float() / 255 - mean) / std


def authors_l1(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).abs().mean()


def authors_edges(student: Tensor, teacher: Tensor, components: int = 8) -> Tensor:
    tokens = teacher.permute(0, 2, 3, 1).reshape(-1, teacher.shape[1])
    tokens = tokens[torch.randperm(len(tokens), device=tokens.device)][::3]
    mean = tokens.mean(0)
    _, _, directions = torch.pca_lowrank(tokens - mean, q=components + 16, center=False, niter=2)
    weight = directions[:, :components].T[:, :, None, None].contiguous()
    bias = -(weight[:, :, 0, 0] @ mean)
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=tokens.device)
    total = student.new_zeros(())
    projected = [functional.conv2d(x, weight, bias) for x in (student, teacher)]
    for kernel in (sobel, sobel.T):
        filters = kernel.expand(components, 1, 3, 3)
        edges = [functional.conv2d(x, filters, groups=components) for x in projected]
        total = total + functional.mse_loss(edges[0], edges[1])
    return total


def authors_spectrum(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    window = torch.hann_window(height, periodic=False, device=x.device)[:, None]
    window = window * torch.hann_window(width, periodic=False, device=x.device)
    amplitude = torch.fft.fft2(x * window, norm="ortho").abs().mean(1).flatten(1)
    places_y, places_x = (torch.linspace(-1, 1, size, device=x.device) for size in (height, width))
    radius = (places_y[:, None] ** 2 + places_x**2).sqrt()
    ring = (
        (torch.bucketize(radius / radius.max(), torch.linspace(0, 1, 25, device=x.device)) - 1).clamp(0, 23).flatten()
    )
    sums = torch.zeros(len(x), 24, device=x.device).index_add_(1, ring, amplitude)
    counts = torch.zeros(24, device=x.device).index_add_(0, ring, torch.ones_like(ring, dtype=torch.float32))
    return (sums / counts.clamp(min=1) + 1e-8).log()[:, 7:]


def authors_loss(student: Tensor, teacher: Tensor) -> Tensor:
    spectral = (authors_spectrum(student) - authors_spectrum(teacher)).square().mean()
    return authors_l1(student, teacher) + authors_edges(student, teacher) + 0.1 * spectral


def recompute_extractors(refiner: nn.Module) -> None:
    """Gradient checkpointing of every extractor, as the authors' adapter has it by default."""
    for module in refiner.modules():
        if isinstance(module, Extractor):
            setattr(module, "forward", partial(checkpoint, module.forward, use_reentrant=False))  # noqa: B010 -- a method


def authors_block(arguments: argparse.Namespace, paths: list[Path], device: torch.device) -> Block:
    backbone = load_backbone(arguments.backbone).to(device)
    refiner = build_refiner(backbone.spec.width, len(backbone.spec.tap_layers), seed=SEED)
    assert refiner is not None
    recompute_extractors(refiner)
    student = Student(backbone, refiner).train().to(device)
    optimiser = torch.optim.Adam(refiner.parameters(), lr=1e-3)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (backbone.spec.mean, backbone.spec.std))
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    order = iter(range(10**9))

    def steps(count: int) -> int:
        for _ in range(count):
            chosen = [paths[next(order) % len(paths)] for _ in range(arguments.batch)]
            views = torch.stack([authors_view(path, 4 * arguments.size, mean, std) for path in chosen])
            small = functional.interpolate(views, scale_factor=0.25, mode="bicubic", antialias=True).to(device)
            with torch.inference_mode(), autocast:
                target = backbone(views.to(device))[-1].float()
            with autocast:
                features = student(small)
            loss = authors_loss(features.float(), target.clone())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()
        return count * arguments.batch

    return steps


# ---- ours ----


def our_block(
    arguments: argparse.Namespace,
    paths: list[Path],
    device: torch.device,
    is_teacher_bf16: bool,
    cache: Path | None = None,
) -> Block:
    backbone = load_backbone(arguments.backbone).to(device)
    refiner = build_refiner(backbone.spec.width, len(backbone.spec.tap_layers), seed=SEED)
    assert refiner is not None
    draw_drop_paths(refiner, 0.3)
    student = Student(backbone, refiner).train().to(device)
    store = TeacherCache(cache, "benchmark") if cache else None
    distiller = Distiller(
        student,
        student,
        torch.optim.Adam(refiner.parameters(), lr=1e-3),
        losses=LossSettings(),
        arithmetics=Arithmetics(is_student_bf16=device.type == "cuda", is_teacher_bf16=is_teacher_bf16),
        processes=Processes(),
        teacher_batch=arguments.teacher_batch,
        teacher=torch.compile(backbone) if arguments.compile else None,
        cache=store,
    )
    views = ViewSettings(sizes=((arguments.size, arguments.size),), max_upscale=4.0)
    data = IndexedData(
        index_photographs(paths),
        SampleMaker(views=views, cache=store),
        batch=min(arguments.batch, len(paths)),
        seed=SEED,
    )
    done = iter(range(10**9))
    position: dict[str, int] = {}

    def steps(count: int) -> int:
        # Threads start and end within the block, and decode nothing beyond it: they take no time of the other one's.
        ahead = islice(data.batches(position), count)
        with closing(prefetched(ahead, arguments.workers, depth=2)) as batches:
            for _ in range(count):
                batch = next(batches)
                terms = distiller.step(batch, next(done), 1e-3)
                terms["total"].item()
                position.update(batch.after)
        return count * arguments.batch

    return steps


# ---- turns ----


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One kind of step; a number a turn.

    Attributes:
        name: for the table.
        wall: images a second.
        cpu: images a second of processor time, all threads together; other programs disturb it less.
    """

    name: str
    wall: list[float]
    cpu: list[float]


def take_turns(blocks: dict[str, Block], rounds: int, steps: int, device: torch.device) -> list[Timed]:
    timed = [Timed(name=name, wall=[], cpu=[]) for name in blocks]
    for block in blocks.values():
        block(1)
    for _ in tqdm(range(rounds), desc="turns"):
        for item in timed:
            started_s, cpu_s = time.perf_counter(), time.process_time()
            images = blocks[item.name](steps)
            if device.type == "cuda":
                torch.cuda.synchronize()
            item.wall.append(images / (time.perf_counter() - started_s))
            item.cpu.append(images / (time.process_time() - cpu_s))
    return timed


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def photographs(folder: Path | None) -> Path:
    if folder is not None:
        return folder
    import skimage

    return Path(skimage.__file__).parent / "data"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of photographs; default: those of scikit-image")
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--size", type=int, default=128, help="the student's side [px]")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--teacher-batch", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def main() -> int:
    arguments = build_parser().parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    found = [photograph.path for photograph in index_photographs([photographs(arguments.photos)]).photographs]
    paths = found[:: max(1, len(found) // PHOTOGRAPHS)][:PHOTOGRAPHS]
    fast = has_fast_bf16(device)
    with tempfile.TemporaryDirectory() as cache:
        blocks = {"authors": authors_block(arguments, paths, device)}
        blocks["ours, teacher fp32"] = our_block(arguments, paths, device, is_teacher_bf16=False)
        if fast:
            blocks["ours (default: teacher bf16)"] = our_block(arguments, paths, device, is_teacher_bf16=True)
        blocks["ours, teacher cached"] = our_block(arguments, paths, device, fast, Path(cache))
        blocks["ours, teacher cached"](-(-len(paths) // arguments.batch))  # fill it
        timed = take_turns(blocks, arguments.rounds, arguments.steps, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {arguments.threads} threads"
    print(
        f"{arguments.backbone}, student {arguments.size}, teacher {4 * arguments.size}, batch {arguments.batch}, {name}"
    )
    print(f"torch {torch.__version__}; median of {arguments.rounds} turns of {arguments.steps} steps; ratios by turn")
    print(f"{'':<30} {'images/s':>9} {'ratio':>6}   {'of CPU time':>11}")
    for item in timed:
        wall, cpu = median_ratio(item.wall, timed[0].wall), median_ratio(item.cpu, timed[0].cpu)
        print(f"{item.name:<30} {statistics.median(item.wall):9.3f} {wall:6.2f}   {cpu:11.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
