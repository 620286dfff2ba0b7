"""An ONNX graph with an index: who makes a tensor, who reads it, what shape it has, which constants there are.

The thin layer under all rewriting in calib. Edits are collected and take effect together in `commit`, which also
drops constants that nothing reads any more. Knows nothing of quantisation. Assumes static shapes and no sub-graphs.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from brixel_edge.errors import BuildError, BundleError
from brixel_edge.export.graph.walk import consumers, element_types, producers, static_shapes

MIN_OPSET = 17  # the first with native LayerNormalization
_PROTOBUF_LIMIT = 2**31 - 1
_SMALL_BYTES = 4096  # constants of this size may be shapes, whose values inference needs


class Graph:
    """A model and its index.

    Attributes:
        model: the wrapped model; edit it through this class only.
        producer: tensor name -> the node that makes it.
        consumers: tensor name -> the nodes that read it.
        by_name: node name -> the node.
        constants: name -> the constant tensor.
        shapes: tensor name -> its static shape.
        types: tensor name -> its ONNX element type.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._before: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._removed: set[str] = set()
        _make_canonical(model)
        inferred = shape_inference.infer_shapes(_without_weights(model), data_prop=True)
        self.shapes, self.types = static_shapes(inferred), element_types(inferred)
        self._index()

    def _index(self) -> None:
        graph = self.model.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.by_name = {node.name: node for node in graph.node}
        self.producer, self.consumers = producers(self.model), consumers(self.model)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes, in an order in which they can run."""
        return list(self.model.graph.node)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return tuple(value.name for value in self.model.graph.output)

    @property
    def float_outputs(self) -> tuple[str, ...]:
        """Names of the outputs with real numbers: those that precision can hurt."""
        kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        return tuple(value.name for value in self.model.graph.output if value.type.tensor_type.elem_type in kinds)

    @property
    def image_name(self) -> str:
        """Name of the first input."""
        return self.model.graph.input[0].name

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W) of the input image [px]."""
        shape = self.shapes[self.image_name]
        return shape[1], shape[2]

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return next(entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx"))

    def array(self, name: str) -> NDArray:
        """Value of a constant."""
        return numpy_helper.to_array(self.constants[name])

    def put(self, name: str, value: NDArray) -> str:
        """Set or add a constant; gives its name back."""
        tensor = numpy_helper.from_array(np.asarray(value), name)
        if name in self.constants:
            self.constants[name].CopyFrom(tensor)
        else:
            self.model.graph.initializer.append(tensor)
            self.constants[name] = self.model.graph.initializer[-1]
        return name

    def own_constant(self, node: onnx.NodeProto, position: int) -> str:
        """Name of a constant input that only `node` reads; a shared one is copied first."""
        name = node.input[position]
        if len(self.consumers[name]) > 1:
            self.consumers[name] = [other for other in self.consumers[name] if other is not node]
            name = self.put(f"{name}@{node.name}", self.array(name))
            node.input[position] = name
            self.consumers[name] = [node]
        return name

    def insert_before(self, node: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """Have `new` run right before `node`, from the next commit on."""
        self._before[node.name].extend(new)

    def remove(self, node: onnx.NodeProto) -> None:
        """Drop a node at the next commit; what is inserted before it stays."""
        self._removed.add(node.name)

    def commit(self) -> None:
        """Carry out the collected insertions and removals, drop what became useless and index again."""
        kept: list[onnx.NodeProto] = []
        for node in self.model.graph.node:
            kept.extend(self._before.get(node.name, ()))
            if node.name not in self._removed:
                kept.append(node)
        nodes = [_copy_node(node) for node in kept]
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        self._before.clear()
        self._removed.clear()
        self._drop_unread()
        self._index()

    def _drop_unread(self) -> None:
        """Drop nodes whose results nobody reads, then constants that nobody reads."""
        read, live = set(self.outputs), []
        for node in reversed(self.model.graph.node):
            if read.intersection(node.output):
                live.append(_copy_node(node))
                read.update(node.input)
        del self.model.graph.node[:]
        self.model.graph.node.extend(reversed(live))
        for position in reversed(range(len(self.model.graph.initializer))):
            if self.model.graph.initializer[position].name not in read:
                del self.model.graph.initializer[position]

    def copy(self) -> Graph:
        """An independent copy; shapes are carried over, not inferred again."""
        twin = Graph.__new__(Graph)
        twin.model = onnx.ModelProto()
        twin.model.CopyFrom(self.model)
        twin.shapes, twin.types = dict(self.shapes), dict(self.types)
        twin._before, twin._removed = defaultdict(list), set()
        twin._index()
        return twin

    def serialized(self) -> bytes:
        """The model as bytes, for a session.

        Raises:
            BuildError: larger than protobuf can hold.
        """
        return serialized(self.model)


def serialized(model: onnx.ModelProto) -> bytes:
    """A model as bytes.

    Raises:
        BuildError: larger than protobuf can hold.
    """
    if model.ByteSize() > _PROTOBUF_LIMIT:
        raise BuildError("the graph is larger than 2 GiB, which INT8 calibration cannot hold; take a smaller backbone")
    return model.SerializeToString()


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large constants declared only: inference copies the whole model twice."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = model.graph
    light.graph.name = graph.name or "graph"
    for field in ("node", "input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(graph, field))
    for tensor in graph.initializer:
        if tensor.ByteSize() <= _SMALL_BYTES:
            light.graph.initializer.append(tensor)
        else:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims))
            light.graph.value_info.append(info)
    return light


def _copy_node(node: onnx.NodeProto) -> onnx.NodeProto:
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    return twin


def _make_canonical(model: onnx.ModelProto) -> None:
    """Turn Constant nodes into constants and give every node a name of its own, by position, so that plans repeat."""
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            kept.append(_copy_node(node))
    taken: set[str] = set()
    for position, node in enumerate(kept):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{position}"
        taken.add(node.name)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def load_graph(path: str | Path) -> Graph:
    """Read a graph of brixel-export.

    Raises:
        BundleError: no ONNX file, or not one with a single static uint8 image as input.
        BuildError: an opset without native LayerNormalization.
    """
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's DecodeError is private; a missing file is the same to the user
        raise BundleError(
            f"{path} is not a readable ONNX model ({error}); give graph.fp32.onnx of brixel-export"
        ) from error
    graph = Graph(model)
    inputs = list(model.graph.input)
    shape = graph.shapes.get(inputs[0].name) if len(inputs) == 1 else None
    if shape is None or len(shape) != 4 or graph.types[inputs[0].name] != onnx.TensorProto.UINT8:
        given = ", ".join(helper.printable_value_info(value) for value in inputs)
        raise BundleError(
            f"{path} takes [{given}]; INT8 needs one static uint8 (1, H, W, 3) image: export with brixel-export"
        )
    if graph.opset < MIN_OPSET:
        raise BuildError(f"{path} has opset {graph.opset}; INT8 needs {MIN_OPSET} or later (native LayerNormalization)")
    return graph
