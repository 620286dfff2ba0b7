"""An exported directory that engines are added to: the graphs that it has, and those that can be made of them.

No torch, no onnx: what needs onnx happens in processes of their own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from brixel_edge.commands.export_frames import frames_file
from brixel_edge.commands.export_int8_making import Int8Graphs, Int8Wish, int8_graphs
from brixel_edge.errors import BuildError, SpecError
from brixel_edge.export.facts import FileFacts, Product, Stopwatch
from brixel_edge.export.ladder import LADDER
from brixel_edge.export.making import half_graph
from brixel_edge.model.bundle import ORT_INT8_NAME, TRT_INT8_NAME, Bundle, graph_name
from brixel_edge.model.engine_choice import EngineChoice
from brixel_edge.model.receipt_sections import Lowering
from brixel_edge.model.spec import Half, Precision
from brixel_edge.proof.proof import PROOF_NAME, load_proof


@dataclass(kw_only=True)
class Directory:
    """See the module.

    Attributes:
        bundle: the directory as it is.
        folder: the new one in the making, with all its files.
        calib: source of calibration frames; None for none.
        calib_n: frames of it.
        seed: of the choice of frames.
        output: type of a half-precision graph's features; None is fp32.
        keeps_opset: bf16 at the opset of the fp32 graph.
        watch: is told what it takes.
        say: called with one line per step.
    """

    bundle: Bundle
    folder: Path
    calib: str | None
    calib_n: int
    seed: int
    output: Half | None
    keeps_opset: bool
    watch: Stopwatch
    say: Callable[[str], None]

    @cached_property
    def photographs(self) -> tuple[str, ...]:
        """Names of the proof's."""
        return load_proof(self.folder / PROOF_NAME).names

    @cached_property
    def _work(self) -> Path:
        path = self.folder / "work"
        path.mkdir()
        return path

    @cached_property
    def _frames(self) -> Path | None:
        """The frames of --calib, in a file for the processes that make graphs."""
        if self.calib is None:
            return None
        self.say(f"taking up to {self.calib_n} calibration frames from {self.calib}")
        return frames_file(self.calib, self.bundle.spec, self._work, count=self.calib_n, seed=self.seed)

    def lowerings(self, engine: EngineChoice) -> list[Lowering]:
        """Of an engine's float graph, in the order in which they are tried: sampling stays as it was exported."""
        samplers = self.bundle.receipt.samplers
        steps: tuple[tuple[Precision, Any], ...] = LADDER[engine.float_precision]
        exported = samplers.get(graph_name("fp32"), next(iter(samplers.values())))
        found = [Lowering(precision=precision, sampler=exported, islands=level) for precision, level in steps]
        return [
            replace(lowering, sampler=samplers[graph_name(lowering.precision)]) if self._has(lowering) else lowering
            for lowering in found
        ]

    def graph_of(self, lowering: Lowering) -> tuple[Path, dict[str, FileFacts]]:
        """The float graph of a lowering in the work folder, and what is known of it where it was made now.

        Raises:
            BuildError: there is nothing to make it of, or the graph is not valid.
            GateMissedError: it does not compute what PyTorch does.
        """
        path = self._work / graph_name(lowering.precision)
        if self._has(lowering):
            _link(self.folder / path.name, path)
            return path, {}
        source = self._float_graph(path.name)
        self.say(f"writing {path.name}, {lowering}")
        with self.watch.timed("graphs"):
            facts = half_graph(
                source,
                lowering,
                path,
                proof=self.folder / PROOF_NAME,
                photographs=self.photographs,
                ranging=self._frames,
                output=self.output,
                keeps_opset=self.keeps_opset,
            )
        return path, {path.name: facts}

    def require_makeable(self, engine: EngineChoice) -> None:
        """Refuse INT8 whose graph is not there and cannot be made here.

        Raises:
            SpecError: the message says what to type where.
        """
        if engine.precision != "int8" or self.calib is not None or self._int8_names(engine):
            return
        name = TRT_INT8_NAME if engine.tensorrt is not None else graph_name("int8")
        root = self.bundle.root
        raise SpecError(
            f"{root} has no {name} and nothing to calibrate one on; give --calib SRC, frames of what the device will "
            f"see (folder, video or camera), here, or on the workstation: brixel-export --from {root.name} --engine "
            "onnx-int8 --calib SRC"
        )

    def int8_graphs(self, engine: EngineChoice, lowering: Lowering) -> tuple[tuple[Path, ...], Int8Graphs]:
        """The INT8 graphs of an engine in the work folder, and what is known of them where they were made now.

        Raises:
            SpecError: too few frames, or some that are the proof's.
            BuildError: a graph that is not valid, or a backend that runs it in floating point.
            ParityError: no choice of layers reaches the bounds.
        """
        there = self._int8_names(engine)
        for name in there:
            _link(self.folder / name, self._work / name)
        if there and (engine.tensorrt is None or self._is_typed(there[0])):
            return tuple(self._work / name for name in there), Int8Graphs(facts={})
        if there:
            (self._work / there[0]).replace(self._work / TRT_INT8_NAME)
            self.say(f"writing {TRT_INT8_NAME}: {there[0]} with {lowering.precision} around its integers")
        else:
            _link(self._float_graph("INT8 graph"), self._work / graph_name("fp32"))
            self.say("quantising")
        wish = Int8Wish(
            folder=self._work.resolve(),
            for_tensorrt=engine.tensorrt is not None,
            lowering=lowering,
            proof=(self.folder / PROOF_NAME).resolve(),
            frames=None if self._frames is None else self._frames.resolve(),
            source=self.calib,
            quantises=not there,
            seed=self.seed,
            output=self.output,
            keeps_opset=self.keeps_opset,
        )
        with self.watch.timed("graphs"):
            made = int8_graphs(wish)
        others = [name for name in (made.how.files if made.how else ()) if name not in made.facts]
        return tuple(self._work / name for name in (*others, *made.facts)), made

    def taken_in(self, product: Product) -> dict[str, FileFacts]:
        """Put the files of a product into the new directory; what is known of them."""
        for path in product.files:
            path.replace(self.folder / path.name)
        return product.facts

    def clear(self) -> None:
        """Remove the work folder."""
        shutil.rmtree(self._work)

    def _has(self, lowering: Lowering) -> bool:
        """Whether the graph of a float lowering is there, with these islands."""
        name, receipt = graph_name(lowering.precision), self.bundle.receipt
        islands = receipt.islands.get(name)
        return name in receipt.files and (None if islands is None else islands.level) == lowering.islands

    def _float_graph(self, wanted: str) -> Path:
        """The fp32 graph, which others are made of.

        Raises:
            BuildError: it is not there.
        """
        source = self.folder / graph_name("fp32")
        if not source.is_file():
            root = self.bundle.root
            raise BuildError(f"{root} has no {wanted} and no {source.name} to make it of; export it again")
        return source

    def _int8_names(self, engine: EngineChoice) -> list[str]:
        """The INT8 graphs that are there for an engine; TensorRT also takes OpenVINO's, once it is typed."""
        files, own = self.bundle.receipt.files, TRT_INT8_NAME if engine.tensorrt is not None else ORT_INT8_NAME
        found = [name for name in (own, graph_name("int8")) if name in files]
        return found if engine.tensorrt is None else found[:1]

    def _is_typed(self, name: str) -> bool:
        """Whether half precision is around a graph's integers; earlier releases had no name of its own for that."""
        return name == TRT_INT8_NAME or name in self.bundle.receipt.islands


def link_files(source: Path, folder: Path) -> None:
    """Put every file of a directory into another, without its content being copied where the disk can link."""
    for path in source.iterdir():
        if path.is_file():
            _link(path, folder / path.name)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # FAT on a memory card, or another file system
        shutil.copy2(source, target)
