"""FusedModel -> graph.fp32.onnx: traced, simplified, checked, with the spec inside.

The bytes depend on the model alone: stack traces, paths and dates that exporters leave in a file are removed. Opset 18
has native LayerNormalization and the GridSample form (`bilinear`) that all TensorRT releases read alike.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path

import onnx
import onnxsim
import torch
from torch import nn

from brixel_edge.errors import BuildError
from brixel_edge.export.graph.census import Census, assert_census
from brixel_edge.export.graph.cut import name_taps
from brixel_edge.export.graph.fuse import FusedModel
from brixel_edge.export.graph.passes import fusable_gelu, materialised_samples
from brixel_edge.machine.files import write_atomically
from brixel_edge.model.halves import TAP_PREFIX
from brixel_edge.model.onnx_file import INPUT_NAME, SPEC_KEY, with_digest
from brixel_edge.model.spec import ModelSpec

OPSET = 18

_log = logging.getLogger(__name__)


def onnx_from_model(model: FusedModel, spec: ModelSpec, out: Path, *, has_samples: bool = False) -> Census:
    """Write the graph of a fused model.

    Args:
        model: in evaluation mode.
        spec: goes into the file's metadata; its image gives the input's shape.
        out: the .onnx file; written under a temporary name first.
        has_samples: give the samples of deformable attention as further outputs, the sampler `materialised`.

    Returns:
        what the graph is made of.

    Raises:
        BuildError: the exporter failed, or the graph holds what it may not.
    """
    image = torch.zeros((1, spec.image.height, spec.image.width, 3), dtype=torch.uint8)
    outputs = list(spec.outputs)
    marks = [f"{TAP_PREFIX}mark.{index}" for index in range(len(spec.tap_layers))] if spec.adapter != "none" else []
    model.gives_taps = bool(marks)
    try:
        graph = _simplified(_traced(model, image, [*outputs, *marks]))
    finally:
        model.gives_taps = False
    if marks:
        name_taps(graph, outputs)
    fusable_gelu(graph)
    _strip(graph)
    graph = onnx.shape_inference.infer_shapes(graph, strict_mode=True)
    if has_samples:
        materialised_samples(graph)
    census = assert_census(graph)
    _drop_value_info(graph)
    _add_metadata(graph, spec)
    onnx.checker.check_model(graph)
    write_atomically(out, with_digest(graph.SerializeToString(deterministic=True)))
    return census


def _traced(model: nn.Module, image: torch.Tensor, outputs: list[str]) -> onnx.ModelProto:
    """Torch's exporter, its progress prints and self-deprecations kept out of the user's terminal."""
    chatter = io.StringIO()
    onnxscript_log = logging.getLogger("onnxscript")
    level = onnxscript_log.level
    try:
        onnxscript_log.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(chatter), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (image,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=outputs,
                verbose=False,
            )
    except Exception as error:  # torch raises many kinds here; all mean that this model cannot be traced
        raise BuildError(f"torch.onnx.export failed: {str(error).splitlines()[0]}; see --debug") from error
    finally:
        onnxscript_log.setLevel(level)
    assert program is not None
    return program.model_proto


def _simplified(graph: onnx.ModelProto) -> onnx.ModelProto:
    """By onnxsim, which proves its result on random input; refused if it cannot."""
    simplified, equal = onnxsim.simplify(graph)
    if not equal:
        raise BuildError("onnxsim changed what the graph computes; report it with the model's name")
    return simplified


def _strip(graph: onnx.ModelProto) -> None:
    """Remove what exporters note about the machine and the source lines."""
    for owner in (
        graph,
        graph.graph,
        *graph.graph.node,
        *graph.graph.input,
        *graph.graph.output,
        *graph.graph.initializer,
    ):
        owner.ClearField("metadata_props")
        owner.ClearField("doc_string")
    graph.ClearField("functions")
    graph.producer_name = "brixel-edge"
    graph.ClearField("producer_version")
    graph.graph.name = "brixel"
    _drop_value_info(graph)


def _drop_value_info(graph: onnx.ModelProto) -> None:
    """Inferred shapes are a copy of what each reader infers itself; stale ones have misled optimisers."""
    graph.graph.ClearField("value_info")


def _add_metadata(graph: onnx.ModelProto, spec: ModelSpec) -> None:
    onnx.helper.set_model_props(graph, {SPEC_KEY: json.dumps(spec.to_json(), sort_keys=True)})
