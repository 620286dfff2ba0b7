"""One graph as two: the backbone, from pixels to its tapped maps, and the adapter, from pixels and those maps on.

What runs between them are the tensors `tap.0`, `tap.1`, ..., which get these names when a model is traced and keep them
in every precision. Pre-processing that both need is in both. No torch.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from brixel_edge.errors import BuildError
from brixel_edge.export.graph.walk import consumers, element_types, producers, static_shapes
from brixel_edge.machine.files import write_atomically
from brixel_edge.machine.openvino_hint import PRECISION_KEY
from brixel_edge.model.halves import TAP_PREFIX, half_names
from brixel_edge.model.onnx_file import INPUT_NAME

# A ViT's own work; what is before the first of them is pre-processing and patches.
_INNER = frozenset({"LayerNormalization", "Softmax"})
_HEAVY = _INNER | {
    "MatMul",
    "Gemm",
    "MatMulInteger",
    "QLinearMatMul",
    "Conv",
    "ConvInteger",
    "QLinearConv",
    "Attention",
}


def name_taps(graph: onnx.ModelProto, outputs: list[str]) -> None:
    """Name the tensors at which a graph is cut, and take the outputs that mark the tapped maps away again.

    A simplifier may have led the adapter past a marked tensor, to what it was made from; so that the cut is looked for:
    it is what the adapter reads of what the marked maps are made from, behind the ViT's first block.

    Args:
        graph: with the tapped maps as outputs, behind the real ones.
        outputs: names of the real ones.
    """
    made_by = producers(graph)
    marks = [output.name for output in graph.graph.output if output.name not in outputs]
    backbone = _ancestors(graph, marks, stop=frozenset())
    inner = {name for node in backbone if node.op_type in _INNER for name in node.output}
    behind = _descendants(graph, inner)
    own = {name for node in backbone for name in node.output}
    ahead = _ancestors(graph, outputs, stop=own & behind)
    read = {name for node in ahead for name in node.input}
    cut = [name for name in made_by if name in own & behind & (read | set(outputs))]
    _drop_outputs(graph, marks)
    names = {name: f"{TAP_PREFIX}{index}" for index, name in enumerate(cut) if name not in outputs}
    for node in graph.graph.node:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = names.get(name, name)
    _drop_unread(graph)


def cut_at_taps(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The two halves of a graph.

    Args:
        graph: with inferred shapes.

    Raises:
        BuildError: it has no named taps, its adapter does not read the picture, or the backbone is on both sides.
    """
    taps = [name for name in producers(graph) if _is_tap(name)]
    if not taps:
        raise BuildError("the graph does not say where its backbone ends; export the model again with this release")
    outputs = [output.name for output in graph.graph.output]
    first = _part(graph, [INPUT_NAME], taps)
    second = _part(graph, [INPUT_NAME, *taps], outputs)
    if INPUT_NAME not in {name for node in second.graph.node for name in node.input}:
        raise BuildError("its adapter does not read the picture: between two runs of the backbone nothing would change")
    shared = {node.output[0] for node in first.graph.node} & {node.output[0] for node in second.graph.node}
    if doubled := [node.op_type for node in first.graph.node if node.output[0] in shared and node.op_type in _HEAVY]:
        raise BuildError(
            f"the graph cannot be cut at its taps: {', '.join(sorted(set(doubled)))} would be in both halves"
        )
    return first, second


def write_halves(graph: Path, like: Path | None = None) -> tuple[Path, Path]:
    """Write the halves of a graph beside it.

    Args:
        graph: of a model directory.
        like: the fp32 graph that it was made from: what is behind ONNX Runtime's own operators has no inferred shape.

    Returns:
        backbone and adapter.

    Raises:
        BuildError: it cannot be cut.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(str(graph)))
    if like is not None and like != graph:
        _add_shapes(model, onnx.shape_inference.infer_shapes(onnx.load(str(like))))
    paths = tuple(graph.with_name(name) for name in half_names(graph.name))
    for path, half in zip(paths, cut_at_taps(model), strict=True):
        onnx.checker.check_model(half)
        write_atomically(path, half.SerializeToString(deterministic=True))
    return paths[0], paths[1]


def _is_tap(name: str) -> bool:
    """Whether a tensor is a tap itself; what a lowering makes of one has its name and more."""
    return name.startswith(TAP_PREFIX) and name.removeprefix(TAP_PREFIX).isdecimal()


def _add_shapes(graph: onnx.ModelProto, like: onnx.ModelProto) -> None:
    """What is known of the taps in another graph, where it is not known in this one."""
    known, made = static_shapes(graph), producers(graph)
    types, shapes = element_types(like), static_shapes(like)
    for name in [name for name in made if _is_tap(name) and name not in known and name in shapes]:
        graph.graph.value_info.append(onnx.helper.make_tensor_value_info(name, types[name], shapes[name]))


def _part(graph: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """What leads from some tensors to others; inputs that nothing reads are left out."""
    nodes = _ancestors(graph, outputs, stop=frozenset(inputs))
    read = {name for node in nodes for name in node.input}
    types, shapes = element_types(graph), static_shapes(graph)
    known = {value.name: value for value in (*graph.graph.input, *graph.graph.output)}

    def value(name: str) -> onnx.ValueInfoProto:
        if name in known:
            return known[name]
        if name not in shapes:
            raise BuildError(f"the shape of {name} is not known; export the model again with this release")
        return onnx.helper.make_tensor_value_info(name, types[name], shapes[name])

    part = onnx.ModelProto()
    part.CopyFrom(graph)
    for field in ("node", "initializer", "input", "output", "value_info"):
        part.graph.ClearField(field)
    part.ClearField("metadata_props")  # spec and digest are the whole graph's; how it is computed holds for each part
    part.metadata_props.extend(entry for entry in graph.metadata_props if entry.key == PRECISION_KEY)
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(entry for entry in graph.graph.initializer if entry.name in read)
    part.graph.input.extend(value(name) for name in inputs if name in read)
    part.graph.output.extend(value(name) for name in outputs)
    return part


def _ancestors(graph: onnx.ModelProto, names: list[str], stop: frozenset[str] | set[str]) -> list[onnx.NodeProto]:
    """The nodes that make some tensors, in the graph's order, not looking behind those of `stop`."""
    made_by = producers(graph)
    wanted, seen = [name for name in names if name not in stop], set[str]()
    while wanted:
        name = wanted.pop()
        node = made_by.get(name)
        if node is None or node.output[0] in seen:
            continue
        seen.add(node.output[0])
        wanted += [entry for entry in node.input if entry and entry not in stop]
    return [node for node in graph.graph.node if node.output[0] in seen]


def _descendants(graph: onnx.ModelProto, names: set[str]) -> set[str]:
    """Tensors that are made from some others, and those themselves."""
    readers, found, waiting = consumers(graph), set(names), list(names)
    while waiting:
        made = [name for node in readers[waiting.pop()] for name in node.output if name and name not in found]
        found.update(made)
        waiting += made
    return found


def _drop_outputs(graph: onnx.ModelProto, names: list[str]) -> None:
    kept = [output for output in graph.graph.output if output.name not in names]
    graph.graph.ClearField("output")
    graph.graph.output.extend(kept)


def _drop_unread(graph: onnx.ModelProto) -> None:
    """Nodes and constants that lead to no output."""
    nodes = _ancestors(graph, [output.name for output in graph.graph.output], stop=frozenset())
    read = {name for node in nodes for name in node.input}
    constants = [entry for entry in graph.graph.initializer if entry.name in read]
    graph.graph.ClearField("node")
    graph.graph.ClearField("initializer")
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(constants)
