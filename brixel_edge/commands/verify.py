"""brixel-verify: the parity gate again, here, on the engines of a model directory, without PyTorch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brixel_edge.commands.command import add_common_arguments, run_command
from brixel_edge.errors import BackendMissing, BrixelError, BundleError, ParityError, SpecError
from brixel_edge.model.bundle import graph_name, open_bundle
from brixel_edge.model.spec import UNTRAINED_NOTICE
from brixel_edge.proof.parity import GATES, compare
from brixel_edge.proof.proof import PROOF_NAME, load_proof

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from brixel_edge.model.bundle import Bundle
    from brixel_edge.proof.parity import ParityReport
    from brixel_edge.runtimes.bench.bench import Contestant

PROGRAM = "brixel-verify"
MAP_NAME = "verify.png"
ENGINES = ("onnx", "onnx-fp16", "onnx-bf16", "onnx-int8", "trt-fp32", "trt-fp16", "trt-bf16", "trt-int8", "trt-rtx")
EPILOG = """\
What PyTorch computed at the export travels in the model directory (proof.npz). With --images, the reference is
graph.fp32.onnx in ONNX Runtime, here, after it has passed on the proof.

examples:
  brixel-verify vits16.brixel
      every engine that runs here
  brixel-verify vits16.brixel --engine trt-fp16 --map fp16.png
  brixel-verify vits16.brixel --images photographs/

exit codes:
  0 every engine passed, 2 bad input, 3 the engine's backend is not here, 5 one differs
"""


@dataclass(frozen=True, kw_only=True)
class References:
    """What engines are compared with.

    Attributes:
        names: of the images.
        images: (1, H, W, 3) uint8 each.
        features: (1, D, h, w) each.
        step: the features are those of every `step`-th cell.
        source: where they come from, for people.
    """

    names: Sequence[str]
    images: Sequence[NDArray[np.uint8]] = field(repr=False)
    features: Sequence[NDArray[np.floating]] = field(repr=False)
    step: int
    source: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Of one engine.

    Attributes:
        engine: file and backend.
        precision: whose gate it must pass.
        report: None if it did not run.
        reason: why it did not run, or which gate it missed; None if it passed.
        candidates: its features on the lattice of the references.
    """

    engine: str
    precision: str
    report: ParityReport | None
    reason: str | None
    candidates: Sequence[NDArray[np.floating]] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        report = self.report.to_json() if self.report else None
        return {
            "engine": self.engine,
            "precision": self.precision,
            "passed": self.reason is None,
            "reason": self.reason,
            "parity": report,
        }


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Prove on this device that a model's engines still compute what PyTorch does.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="DIR", type=Path, help="model directory of brixel-export")
    parser.add_argument("--images", metavar="F", type=Path, help="image, or folder of images, instead of the proof's")
    parser.add_argument("--engine", choices=ENGINES, help="only this one (default: all that run here)")
    parser.add_argument("--map", metavar="PNG", type=Path, help=f"difference map to write (default DIR/{MAP_NAME})")
    parser.add_argument("--threads", metavar="N", type=int, help="of CPU backends (default: one per core)")
    add_common_arguments(parser)
    return parser


def verify(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the gate; the result as plain JSON values.

    Raises:
        BundleError: no whole model directory, or not the engine that was asked for.
        BackendMissing: the engine that was asked for has no backend here.
        ParityError: an engine differs; the difference map is written all the same.
    """
    if arguments.threads is not None and arguments.threads < 1:
        raise SpecError(f"--threads {arguments.threads} is not at least 1")
    bundle = open_bundle(arguments.model)
    for name in bundle.manifest["files"]:
        bundle.file(name)
    contestants = _chosen(bundle, arguments.engine, arguments.threads)
    references = _references(bundle, arguments.images, arguments.threads)
    verdicts = [_verdict(entry, references, is_asked_for=arguments.engine is not None) for entry in contestants]
    picture = _write_map(arguments.map or arguments.model / MAP_NAME, references, verdicts, bundle)
    record = {
        "model": arguments.model.name,
        "reference": references.source,
        "images": list(references.names),
        "cells": f"every {references.step}. of each row and column" if references.step > 1 else "all",
        "engines": [verdict.to_json() for verdict in verdicts],
        "map": picture,
    }
    if all(verdict.report is None for verdict in verdicts):
        raise BackendMissing(f"no engine of {arguments.model} runs here: {verdicts[0].reason}")
    failed = [verdict for verdict in verdicts if verdict.report is not None and verdict.reason is not None]
    if failed:
        # What was measured is worth more than the message alone.
        print(table(record), file=sys.stderr)
        raise ParityError(
            f"{failed[0].engine} {failed[0].reason}; see {picture}, and export the model again on this device"
        )
    return record


def _chosen(bundle: Bundle, engine: str | None, threads: int | None) -> list[Contestant]:
    """Files and backends to verify."""
    from brixel_edge.commands.bench import contestants_of_folder

    image = bundle.spec.image
    every = [
        entry
        for entry in contestants_of_folder(bundle.root, (image.height, image.width), threads)
        if entry.openvino_precision == "f32" and entry.path.name in bundle.manifest["files"]
    ]
    if engine is None:
        return every
    found = [entry for entry in every if _engine_of(entry) == engine]
    if not found:
        there = ", ".join(sorted({_engine_of(entry) for entry in every}))
        raise BundleError(
            f"{bundle.root} has no {engine} that runs here; it has {there}, or export with --engine {engine}"
        )
    return found


def _engine_of(entry: Contestant) -> str:
    """The name that brixel-export gives to what made a file."""
    from brixel_edge.model.engine_file import identity_from_name

    if entry.backend != "trt":
        precision = precision_of(entry)
        return "onnx" if precision == "fp32" else f"onnx-{precision}"
    identity = identity_from_name(entry.path.name)
    if identity is not None and identity.kind == "trt-rtx":
        return "trt-rtx"
    return f"trt-{precision_of(entry)}"


def precision_of(entry: Contestant) -> str:
    """Of a graph or an engine by its name."""
    from brixel_edge.model.engine_file import identity_from_name

    identity = identity_from_name(entry.path.name)
    return identity.precision if identity is not None else entry.path.name.split(".")[1]


def _references(bundle: Bundle, images: Path | None, threads: int | None) -> References:
    if PROOF_NAME not in bundle.manifest["files"]:
        raise BundleError(
            f"{bundle.root} has no {PROOF_NAME}, its export is of an earlier release; export the model again"
        )
    proof = load_proof(bundle.file(PROOF_NAME))
    stored = References(
        names=proof.names,
        images=[image[None] for image in proof.images],
        features=[features[None] for features in proof.features],
        step=proof.step,
        source=f"PyTorch at the export, on {len(proof.names)} photographs, kept in {proof.features.dtype}",
    )
    if images is None:
        return stored
    graph = _float_graph(bundle, threads)
    verdict = _verdict(graph, stored, is_asked_for=True)
    if verdict.reason is not None:
        raise ParityError(f"{verdict.engine}, the reference for --images, {verdict.reason}; export the model again")
    names, pixels = _loaded(images, bundle)
    return References(
        names=names,
        images=pixels,
        features=_features(graph, pixels),
        step=1,
        source=f"{graph.name} on this device, on {len(names)} images, after it passed on the proof",
    )


def _float_graph(bundle: Bundle, threads: int | None) -> Contestant:
    from brixel_edge.runtimes.bench.bench import Contestant

    image, name = bundle.spec.image, graph_name("fp32")
    path, size = bundle.file(name), (image.height, image.width)
    return Contestant(name=f"{name}, ort", path=path, backend="ort", size=size, threads=threads)


def _loaded(images: Path, bundle: Bundle) -> tuple[list[str], list[NDArray[np.uint8]]]:
    from brixel_edge.image.fit import fit_frame
    from brixel_edge.runtimes.sources.frames import open_source

    source = open_source(str(images))
    names, pixels = [], []
    try:
        while (frame := source.read()) is not None:
            names.append(frame.name or f"frame {frame.index}")
            pixels.append(fit_frame(frame.image, bundle.spec.image).image)
    finally:
        source.close()
    return names, pixels


def _features(entry: Contestant, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.floating]]:
    from brixel_edge.runtimes.runtime import RuntimeSettings, open_runtime

    # This is the gate: an engine that would be refused at its first load is to be shown with its figures.
    settings = RuntimeSettings(threads=entry.threads, is_proven_first=False)
    runtime = open_runtime(entry.path, entry.backend, settings)
    try:
        return [runtime.infer(image)["features"] for image in images]
    finally:
        runtime.close()


def _verdict(entry: Contestant, references: References, *, is_asked_for: bool) -> Verdict:
    """Run one engine and compare; one that cannot run here is an error only if it was asked for."""
    precision = precision_of(entry)
    try:
        whole = _features(entry, references.images)
    except BrixelError as error:
        if is_asked_for:
            raise
        return Verdict(engine=entry.name, precision=precision, report=None, reason=str(error))
    step = references.step
    candidates = [features[:, :, ::step, ::step] for features in whole]
    report = compare(list(references.features), candidates)
    reason = None if report.passes(GATES[precision]) else f"misses the {precision} gate: {_figures(report)}"
    return Verdict(engine=entry.name, precision=precision, report=report, reason=reason, candidates=candidates)


def _figures(report: ParityReport) -> str:
    if not report.finite:
        return "NaN or Inf"
    cosines = f"cosine mean {report.cosine_mean:.6f}, worst 1 % {report.cosine_p01:.6f}"
    return f"{cosines}, relative error {report.frobenius:.1e}"


def _write_map(path: Path, references: References, verdicts: Sequence[Verdict], bundle: Bundle) -> str:
    """The difference map: for every engine the image on which it is worst."""
    import cv2
    import numpy as np

    from brixel_edge.proof.parity import cell_cosines
    from brixel_edge.runtimes.pictures.difference import Comparison, difference_map

    rows = []
    for verdict in verdicts:
        if verdict.report is None:
            continue
        pairs = list(zip(references.features, verdict.candidates, strict=True))
        worst = int(np.argmin([np.nan_to_num(cell_cosines(*pair)).mean() for pair in pairs]))
        pixels = references.images[worst][0]
        image = pixels if bundle.spec.image.channels == "BGR" else pixels[..., ::-1]
        state = "passed" if verdict.reason is None else "FAILED"
        label = f"{verdict.engine}: {state}, {_figures(verdict.report)} ({references.names[worst]})"
        reference, candidate = pairs[worst]
        rows.append(
            Comparison(label=label, image_bgr=np.ascontiguousarray(image), reference=reference, candidate=candidate)
        )
    if not rows:
        return ""
    notice = None if bundle.spec.trained else UNTRAINED_NOTICE
    if not cv2.imwrite(str(path), difference_map(rows, notice)):
        raise SpecError(f"the difference map cannot be written to {path}; name another place with --map PNG")
    return str(path)


def table(record: dict[str, Any]) -> str:
    """The result for people."""
    width = max([43, *(len(entry["engine"]) for entry in record["engines"])]) + 1
    lines = [
        f"{record['model']} against {record['reference']} (cells: {record['cells']})",
        f"{'engine':<{width}}{'mean':>10}{'worst 1 %':>11}{'centred':>10}{'error':>10}",
    ]
    for entry in record["engines"]:
        parity = entry["parity"]
        if parity is None:
            lines.append(f"{entry['engine']:<{width}}  not run: {entry['reason']}")
            continue
        state = "passed" if entry["passed"] else "FAILED"
        lines.append(
            f"{entry['engine']:<{width}}{parity['cosine_mean']:>10.6f}{parity['cosine_p01']:>11.6f}"
            f"{parity['centred_mean']:>10.6f}{parity['frobenius']:>10.1e}  {state}"
        )
    return "\n".join([*lines, f"difference map: {record['map']}"])


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-verify."""

    def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
        record = verify(arguments)
        return record, table(record)

    return run_command(build_parser(), command, argv)


if __name__ == "__main__":
    sys.exit(main())
