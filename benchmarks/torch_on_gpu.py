"""Half precision and speed on an NVIDIA GPU, with PyTorch alone: no TensorRT is needed, and none is measured.

    python benchmarks/torch_on_gpu.py --out benchmarks/results/cuda.json
    python benchmarks/torch_on_gpu.py --backbones vit_small_patch16_dinov3 --forms eager,cuda-graph

Numerics: the very graphs that brixel-export writes, fp32, fp16 and bf16 with their fp32 islands, executed node by node
in their own types (`benchmarks.torch_graph`), against the fp32 graph on the same GPU; and the same without
islands, to see what they are for. TF32 is off, products accumulate in fp32. Photographs are scikit-image's.

Latency: the student at 256 px against the native backbone at 1024 px, which gives a map of the same 64 x 64 cells; in
eager mode, compiled, and as a CUDA graph of eager mode. Half precision is autocast with weights that are half already.
Contestants take turns, call by call; ratios are medians of the rounds' ratios. Peak memory is what torch's allocator
held for a contestant, weights included. Weights are random: speed does not depend on them.

No GPU run has been made so far: there are no figures of it in this repository. Its machinery is tested on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch_graph import TorchGraph

from brixel_edge.errors import BackendMissing, BrixelError, SpecError
from brixel_edge.export.graph.fuse import FusedModel, spec_from_student
from brixel_edge.export.graph.reference import reference_features
from brixel_edge.export.graph.to_onnx import onnx_from_model
from brixel_edge.export.half.islands import Half, find_islands
from brixel_edge.export.half.ranges import measure_ranges
from brixel_edge.export.half.to_half import half_from_float
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.student import Student, load_student
from brixel_edge.proof.parity import GATES, compare
from brixel_edge.proof.photographs import PROOF, RANGING, bundled_photographs, load_images

BACKBONES = "vit_small_patch16_dinov3,vit_base_patch16_dinov3"
FORMS = ("eager", "compiled", "cuda-graph")
DTYPES = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
NATIVE_SCALE = 4  # the native map of the same cells needs this many times the pixels, a side
WARMUP_CALLS = 5
Image = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A model in one precision and one form.

    Attributes:
        what: `student` or `native`.
        size: side of its image [px].
        precision: fp32, fp16 or bf16.
        form: of FORMS.
        call: computes one map.
        peak_bytes: of its allocations on the device; None on a CPU.
    """

    what: str
    size: int
    precision: str
    form: str
    call: Callable[[], object]
    peak_bytes: int | None


def require_cuda() -> torch.device:
    """The GPU.

    Raises:
        BackendMissing: there is none that torch sees.
    """
    if not torch.cuda.is_available():
        raise BackendMissing(
            f"torch {torch.__version__} sees no CUDA device here; run it on a machine with an NVIDIA GPU and its driver"
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    return torch.device("cuda")


# ---- numerics ----


def numerics(
    student: Student,
    name: str,
    size: tuple[int, int],
    device: torch.device,
    images: tuple[Sequence[Image], Sequence[Image]],
) -> list[dict[str, Any]]:
    """How far the graphs are from fp32 on a device: one record a graph.

    `images` are the proof's, and others for the ranges.
    """
    proof, ranging = images
    spec = spec_from_student(student, *size, "brixel", name=name)
    records = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.fp32.onnx"
        onnx_from_model(FusedModel(student, spec).eval(), spec, path)
        plain = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    ranges = measure_ranges(plain, ranging)
    references = maps_of(plain, proof, device)

    def record(graph: str, against: str, gate: str, islands: int, found: Any) -> None:
        passed = found.passes(GATES[gate])
        records.append(
            {"backbone": name, "graph": graph, "against": against, "islands": islands, "gate": gate, "passed": passed}
            | found.to_json()
        )

    by_torch = reference_features(student, spec, proof)
    record("fp32", "PyTorch module, CPU", "fp32", 0, compare(by_torch, references))
    halves: tuple[Half, ...] = ("fp16", "bf16")
    for precision in halves:
        islands = [entry.node for entry in find_islands(plain, ranges, precision)]
        for label, kept in ((precision, islands), (f"{precision}, no islands", [])):
            maps = maps_of(half_from_float(plain, precision, kept), proof, device)
            record(label, "fp32 graph, same device", precision, len(kept), compare(references, maps))
    return records


def maps_of(model: onnx.ModelProto, images: Sequence[Image], device: torch.device) -> list[np.ndarray]:
    """The features that a graph gives on a device, in fp32."""
    graph = TorchGraph(model).to(device)
    with torch.inference_mode():
        return [graph(torch.from_numpy(image).to(device))[0].float().cpu().numpy() for image in images]


# ---- latency ----


def contestants(
    student: Student, size: int, device: torch.device, precisions: Sequence[str], forms: Sequence[str]
) -> Iterator[Contestant]:
    """The student and the native map in every precision and form, each ready to be called."""
    bare = Student(student.backbone, None).eval()
    for precision in precisions:
        for form in forms:
            for what, model, side in (("student", student, size), ("native", bare, NATIVE_SCALE * size)):
                yield build(what, model, side, precision, form, device)


def build(what: str, model: Student, size: int, precision: str, form: str, device: torch.device) -> Contestant:
    """Bring a model to the device, make its form, warm it up, and note the memory that this took."""
    before = allocated(device, reset=True)
    dtype = DTYPES[precision]
    moved = with_half_weights(copy.deepcopy(model), dtype).to(device).eval()
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    call = caller(moved, image, dtype, form)
    for _ in range(WARMUP_CALLS):
        call()
    synchronize(device)
    peak = peak_allocated(device)
    taken = None if peak is None or before is None else peak - before
    return Contestant(what=what, size=size, precision=precision, form=form, call=call, peak_bytes=taken)


def with_half_weights(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Products' weights in the type that autocast would cast them to at every call."""
    if dtype is not None:
        for module in model.modules():
            if type(module) in (nn.Linear, nn.Conv2d):
                module.to(dtype)
    return model


def caller(model: nn.Module, image: Tensor, dtype: torch.dtype | None, form: str) -> Callable[[], object]:
    """A call of a model in one of FORMS."""
    run = torch.compile(model) if form == "compiled" else model

    def call() -> object:
        with torch.no_grad(), torch.autocast(image.device.type, dtype, enabled=dtype is not None, cache_enabled=False):
            return run(image)

    return captured(call) if form == "cuda-graph" else call


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """A CUDA graph of a call; replaying it launches everything at once."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries finish their set-up, which cannot be captured
        for _ in range(WARMUP_CALLS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def allocated(device: torch.device, *, reset: bool) -> int | None:
    """Bytes that torch holds on a GPU; the peak starts anew from them."""
    if device.type != "cuda":
        return None
    gc.collect()
    torch.cuda.empty_cache()
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak_allocated(device: torch.device) -> int | None:
    """The most that torch has held since the peak started anew."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(rows: Sequence[Contestant], rounds: int, device: torch.device) -> list[list[float]]:
    """Milliseconds of every row in every round, call by call in turn."""
    times: list[list[float]] = [[] for _ in rows]
    for _ in range(rounds):
        for row, found in zip(rows, times, strict=True):
            synchronize(device)
            start_s = time.perf_counter()
            row.call()
            synchronize(device)
            found.append((time.perf_counter() - start_s) * 1e3)
    return times


def latencies(name: str, rows: Sequence[Contestant], times: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """One record a contestant; its ratio is to the student of the same precision and form."""
    students = {
        (row.precision, row.form): found for row, found in zip(rows, times, strict=True) if row.what == "student"
    }
    records = []
    for row, found in zip(rows, times, strict=True):
        own = students[row.precision, row.form]
        records.append(
            {
                "backbone": name,
                "what": row.what,
                "size": row.size,
                "precision": row.precision,
                "form": row.form,
                "p50_ms": statistics.median(found),
                "p99_ms": float(np.percentile(found, 99)),
                "ratio_to_student": statistics.median(a / b for a, b in zip(found, own, strict=True)),
                "peak_bytes": row.peak_bytes,
            }
        )
    return records


# ---- the whole ----


def run(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Everything that was asked for, as plain JSON values."""
    size, found = (arguments.size, arguments.size), {"numerics": [], "latency": []}
    proof, ranging = (load_images(bundled_photographs(names), *size) for names in (PROOF, RANGING))
    precisions = chosen("--precisions", arguments.precisions, tuple(DTYPES))
    forms = chosen("--forms", arguments.forms, FORMS)
    for name in arguments.backbones.split(","):
        student = load_student(load_backbone(name), "random")
        say(f"{name}: graphs")
        found["numerics"] += numerics(student, name, size, device, (proof, ranging))
        say(f"{name}: latency")
        rows = list(contestants(student, arguments.size, device, precisions, forms))
        found["latency"] += latencies(name, rows, measure(rows, arguments.rounds, device))
        del rows
    return {"machine": machine(device), "size": arguments.size, "rounds": arguments.rounds, **found}


def chosen(flag: str, text: str, allowed: Sequence[str]) -> list[str]:
    """A list of names from the command line.

    Raises:
        SpecError: a name that is not allowed.
    """
    names = text.split(",")
    if unknown := [name for name in names if name not in allowed]:
        raise SpecError(f"{flag} {unknown[0]!r} is not one of {', '.join(allowed)}")
    return names


def machine(device: torch.device) -> dict[str, Any]:
    """What ran it."""
    facts: dict[str, Any] = {"torch": torch.__version__, "device": device.type}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def table(record: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{record['machine']}", "", f"{'graph':<46}{'mean':>10}{'worst 1 %':>11}{'error':>10}"]
    for row in record["numerics"]:
        label, state = f"{row['backbone']}, {row['graph']}", "passed" if row["passed"] else "FAILED"
        if not row["finite"]:
            lines.append(f"{label:<46}  NaN or Inf  {state}")
            continue
        cosines = f"{row['cosine_mean']:>10.6f}{row['cosine_p01']:>11.6f}"
        lines.append(f"{label:<46}{cosines}{row['frobenius']:>10.1e}  {state}")
    lines += ["", f"{'':<56}{'p50 ms':>9}{'p99 ms':>9}{'x student':>11}{'peak MiB':>10}"]
    for row in record["latency"]:
        label = f"{row['backbone']}, {row['what']} {row['size']}, {row['precision']}, {row['form']}"
        memory = f"{row['peak_bytes'] / 2**20:.0f}" if row["peak_bytes"] else "unknown"
        lines.append(
            f"{label:<56}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}{row['ratio_to_student']:>11.2f}{memory:>10}"
        )
    return "\n".join(lines)


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", default=BACKBONES, metavar="NAME,...")
    parser.add_argument("--size", type=int, default=256, help="of the student [px]")
    parser.add_argument("--precisions", default=",".join(DTYPES), metavar="P,...")
    parser.add_argument("--forms", default=",".join(FORMS), metavar="F,...")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path, metavar="JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    arguments = build_parser().parse_args(argv)
    try:
        device = require_cuda()
        with contextlib.redirect_stdout(sys.stderr):  # compilers may print
            record = run(arguments, device)
    except BrixelError as error:
        print(f"torch_on_gpu.py: error: {error}", file=sys.stderr)
        return error.exit_code
    print(table(record))
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
