"""Proves the files of one model at one size: what they compute against what PyTorch computes, on photographs.

What PyTorch computes comes from PyTorch itself on the build machine, and from the proof that travels on a board.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from brixel_edge.export.facts import FileFacts, Photographs, Stopwatch
from brixel_edge.export.gate import passed
from brixel_edge.export.graph.census import assert_census
from brixel_edge.export.judges import Judge
from brixel_edge.model.graph_facts import graph_facts
from brixel_edge.model.spec import Precision, SamplerKind
from brixel_edge.proof.parity import ParityReport
from brixel_edge.proof.references import Outputs

Compare = Callable[[Sequence[Outputs]], ParityReport]


@dataclass(kw_only=True)
class Prover:
    """The gate.

    Attributes:
        photographs: that are compared.
        compare: outputs of all of them with what PyTorch made of them.
        watch: is told what it takes.
        say: called with one line per step.
    """

    photographs: Photographs
    compare: Compare
    watch: Stopwatch
    say: Callable[[str], None]

    def graph(self, path: Path, precision: Precision, sampler: SamplerKind, judges: Sequence[Judge]) -> FileFacts:
        """Count a graph, run it on every judge and compare; the first decides what stands at the record's top.

        Raises:
            BuildError: it holds what it may not, or a judge refuses it.
            GateMissedError: it does not compute what PyTorch does.
        """
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
        census = assert_census(model, precision)
        self.say(f"comparing {path.name} with PyTorch on {len(self.photographs.pixels)} photographs")
        with self.watch.timed("parity"):
            outputs = {judge.name: judge.outputs(path, self.photographs.pixels) for judge in judges}
        reports = {name: self.compare(candidates) for name, candidates in outputs.items()}
        return FileFacts(
            sampler=sampler,
            census=census,
            precisions=graph_facts(path).operator_types,
            parity=passed(path.name, precision, reports, self.photographs.names),
        )
