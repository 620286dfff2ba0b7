"""The parity gate again, on this device, on the engines of a model directory, without PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BackendMissing, BrixelError, BundleError, ParityError, SpecError
from brixel_edge.image.fit import fit_frame
from brixel_edge.model.bundle import Bundle, graph_name, open_bundle
from brixel_edge.model.halves import is_graph
from brixel_edge.model.spec import ANSWER, FEATURES, UNTRAINED_NOTICE, ModelSpec
from brixel_edge.proof.parity import GATES, ParityReport
from brixel_edge.proof.photographs import faultless_looking
from brixel_edge.proof.proof import PROOF_NAME, Proof, load_proof
from brixel_edge.proof.references import Outputs
from brixel_edge.runtimes.engines import Engine, engines_of_folder, open_runtime
from brixel_edge.runtimes.pictures.difference import Comparison, errors_of, write_difference_map
from brixel_edge.runtimes.runtime import RuntimeSettings
from brixel_edge.runtimes.sources.opening import open_source

_LOG = logging.getLogger(__name__)
_NAME_WIDTH = 43
_SHOWN = 3  # pictures that a message names


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Of one engine.

    Attributes:
        engine: file and backend.
        precision: whose gate it must pass.
        parity: None if it did not run.
        reason: why it did not run, or which gate it missed; None if it passed.
        outputs: its maps at the cells of the proof, (1, channels, rows, columns) by name, of each image.
    """

    engine: str
    precision: str
    parity: ParityReport | None
    reason: str | None
    outputs: Sequence[Outputs] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "engine": self.engine,
            "precision": self.precision,
            "passed": self.reason is None,
            "reason": self.reason,
            "parity": self.parity.to_json() if self.parity else None,
        }

    def line(self, width: int) -> str:
        """Of the table, after a column of `width` letters."""
        if self.parity is None:
            return f"{self.engine:<{width}}  not run: {self.reason}"
        parity, state = self.parity, "passed" if self.reason is None else "FAILED"
        answers = "" if parity.answers is None else f", {parity.answers.line}"
        if not parity.has_features:
            return f"{self.engine:<{width}}{'':>41}  {state}{answers}"
        return (
            f"{self.engine:<{width}}{parity.cosine_mean:>10.6f}{parity.cosine_p01:>11.6f}"
            f"{parity.centred_mean:>10.6f}{parity.frobenius:>10.1e}  {state}{answers}"
        )


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What verifying a model directory came to.

    Attributes:
        root: the directory.
        proof: what its engines were compared with.
        source: where that comes from, for people.
        verdicts: one an engine.
        picture: the difference map that was written; None if no engine ran.
    """

    root: Path
    proof: Proof
    source: str
    verdicts: tuple[Verdict, ...]
    picture: Path | None

    @property
    def failed(self) -> list[Verdict]:
        """Of the engines that ran and differ."""
        return [verdict for verdict in self.verdicts if verdict.parity is not None and verdict.reason is not None]

    def check(self) -> None:
        """Pass, or say what is wrong.

        Raises:
            BackendMissing: no engine ran.
            ParityError: one differs.
        """
        if all(verdict.parity is None for verdict in self.verdicts):
            raise BackendMissing(f"no engine of {self.root} runs here: {self.verdicts[0].reason}")
        if self.failed:
            first = self.failed[0]
            raise ParityError(
                f"{first.engine} {first.reason}; see {self.picture or 'the figures'}, and export the model again on "
                "this device"
            )

    @property
    def _cells(self) -> str:
        step = self.proof.step
        return f"every {step}. of each row and column" if step > 1 else "all"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "model": self.root.name,
            "reference": self.source,
            "images": list(self.proof.names),
            "cells": self._cells,
            "engines": [verdict.to_json() for verdict in self.verdicts],
            "map": str(self.picture or ""),
        }

    def table(self) -> str:
        """For people."""
        width = max([_NAME_WIDTH, *(len(verdict.engine) for verdict in self.verdicts)]) + 1
        return "\n".join(
            [
                f"{self.root.name} against {self.source} (cells: {self._cells})",
                f"{'engine':<{width}}{'mean':>10}{'worst 1 %':>11}{'centred':>10}{'error':>10}",
                *(verdict.line(width) for verdict in self.verdicts),
                f"difference map: {self.picture or 'none'}",
            ]
        )


def verify(
    root: Path,
    *,
    picture: Path,
    alternative: Path | None = None,
    images: Path | None = None,
    engine: str | None = None,
    threads: int | None = None,
) -> VerifyReport:
    """Run the gate on every engine that runs here, and paint where they differ.

    Args:
        root: model directory.
        picture: difference map to write.
        alternative: where it is written instead if it cannot be there; None is an error then.
        images: what to compare on instead of the proof's photographs; None takes those.
        engine: only this one, by its name for `brixel-export --engine`.
        threads: of CPU backends.

    Raises:
        BundleError: no whole model directory, or not the engine that was asked for.
        BrixelError: why the engine that was asked for does not run.
        ParityError: the graph that is to be the reference for `images` differs.
    """
    bundle = open_bundle(root)
    for name in bundle.receipt.files:
        bundle.graph(name) if is_graph(name) else bundle.file(name)
    engines = _chosen(bundle, engine, threads)
    proof, source = _proof(bundle, images, threads)
    verdicts = tuple(_verdict(entry, proof, is_asked_for=engine is not None) for entry in engines)
    has_run = any(verdict.parity is not None for verdict in verdicts)
    written = None
    if has_run:
        written = _written_map(picture, alternative, lambda path: _write_map(path, proof, verdicts, bundle.spec))
    return VerifyReport(root=root, proof=proof, source=source, verdicts=verdicts, picture=written)


def _written_map(picture: Path, alternative: Path | None, write: Callable[[Path], None]) -> Path | None:
    """Where the map went; None where it could not be written: figures are worth more than their picture.

    Raises:
        SpecError: it could not be written, and there was no alternative.
    """
    try:
        write(picture)
    except SpecError:
        if alternative is None:
            raise
    else:
        return picture
    try:
        write(alternative)
    except SpecError:
        _LOG.warning("neither %s nor %s can be written; name a place with --map PNG", picture, alternative)
        return None
    _LOG.warning("%s cannot be written; the difference map is %s", picture, alternative)
    return alternative


def _chosen(bundle: Bundle, option: str | None, threads: int | None) -> list[Engine]:
    every = [
        engine
        for engine in engines_of_folder(bundle.root, bundle.spec, threads)
        if engine.openvino_precision == "auto" and engine.path.name in bundle.receipt.files
    ]
    found = [engine for engine in every if option in (None, engine.option)]
    if not found:
        there = ", ".join(sorted({engine.option for engine in every}))
        raise BundleError(
            f"{bundle.root} has no {option} that runs here; it has {there}, or export with --engine {option}"
        )
    return found


def _proof(bundle: Bundle, images: Path | None, threads: int | None) -> tuple[Proof, str]:
    """What PyTorch made of the proof's photographs, or the proven float graph of the user's; and which of them."""
    if PROOF_NAME not in bundle.receipt.files:
        raise BundleError(
            f"{bundle.root} has no {PROOF_NAME}, its export is of an earlier release; export the model again"
        )
    stored = load_proof(bundle.file(PROOF_NAME))
    if images is None:
        kept = "" if stored.features is None else f", kept in {stored.features.dtype}"
        return stored, f"PyTorch at the export, on {len(stored.names)} photographs{kept}"
    size = (bundle.spec.image.height, bundle.spec.image.width)
    graph = Engine(path=bundle.file(graph_name("fp32")), backend="ort", size=size, threads=threads)
    verdict = _verdict(graph, stored, is_asked_for=True)
    if verdict.reason is not None:
        raise ParityError(f"{verdict.engine}, the reference for --images, {verdict.reason}; export the model again")
    with closing(open_source(str(images))) as source:
        # Fitted at once: the frames of a video in full size would fill the memory.
        fitted = [
            (frame.name or f"frame {frame.index}", fit_frame(frame.image, bundle.spec.image).image)
            for frame in iter(source.read, None)
        ]
    names, pixels = [name for name, _ in fitted], [image for _, image in fitted]
    silent = faultless_looking(pixels)
    if len(silent) == len(names):
        why = ", ".join(f"{names[place]}: {reason}" for place, reason in list(silent.items())[:_SHOWN])
        _LOG.warning("no picture of %s could show a fault (%s); the proof's join them", images, why)
        names, pixels = [*names, *stored.names], [*pixels, *(image[None] for image in stored.images)]
    pixels = np.concatenate(pixels)
    outputs = _outputs(graph, pixels)
    whole = {name: np.concatenate([output[name] for output in outputs]) for name in bundle.spec.outputs}
    kind = None if bundle.spec.head is None else bundle.spec.head.kind
    proof = Proof(
        names=tuple(names), images=pixels, features=whole.get(FEATURES), step=1, answers=whole.get(ANSWER), kind=kind
    )
    return proof, f"{graph.name} on this device, on {len(names)} images, after it passed on the proof"


def _outputs(engine: Engine, images: NDArray[np.uint8]) -> list[Outputs]:
    # This is the gate: an engine that would be refused at its first load is to be shown with its figures.
    settings = RuntimeSettings(threads=engine.threads, is_proven_first=False)
    with closing(open_runtime(engine.path, engine.backend, settings)) as runtime:
        return [runtime.infer(image[None]) for image in images]


def _verdict(engine: Engine, proof: Proof, *, is_asked_for: bool) -> Verdict:
    """Run one engine and compare; one that cannot run here is an error only if it was asked for."""
    try:
        outputs = [proof.on_lattice(output) for output in _outputs(engine, proof.images)]
    except BrixelError as error:
        if is_asked_for:
            raise
        return Verdict(engine=engine.name, precision=engine.precision, parity=None, reason=str(error))
    parity = proof.references.compare(outputs)
    missed = None if parity.passes(GATES[engine.precision]) else f"misses the {engine.precision} gate: "
    return Verdict(
        engine=engine.name,
        precision=engine.precision,
        parity=parity,
        reason=missed and missed + parity.line,
        outputs=outputs,
    )


def _write_map(path: Path, proof: Proof, verdicts: Sequence[Verdict], spec: ModelSpec) -> None:
    """The difference map: for every engine the image on which it is worst, of the features or else of the answers."""
    name, head = (FEATURES, None) if proof.features is not None else (ANSWER, spec.head)
    references = proof.references.features if head is None else proof.references.answers
    assert references is not None
    rows = []
    for verdict in verdicts:
        if verdict.parity is None:
            continue
        pairs = [(a, output[name]) for a, output in zip(references, verdict.outputs, strict=True)]
        worst = int(np.argmax([errors_of(*pair, head).mean() for pair in pairs]))
        image = proof.images[worst] if spec.image.channels == "BGR" else proof.images[worst][..., ::-1]
        state = "passed" if verdict.reason is None else "FAILED"
        label = f"{verdict.engine}: {state}, {verdict.parity.line} ({proof.names[worst]})"
        reference, candidate = pairs[worst]
        pixels = np.ascontiguousarray(image)
        rows.append(Comparison(label=label, image_bgr=pixels, reference=reference, candidate=candidate, head=head))
    write_difference_map(path, rows, None if spec.trained else UNTRAINED_NOTICE)
