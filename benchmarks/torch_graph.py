"""An exported graph executed by PyTorch, node by node, every tensor in the type that the graph gives it.

It shows on a GPU without TensorRT what a half-precision graph computes there, and whether its islands suffice: the
graph itself runs, and no autocast decides anything. It knows the operators that we export and refuses others. Shapes
and indices are constants of our graphs, so that nothing waits for the device and a CUDA graph can capture it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from brixel_edge.errors import BuildError

Function = Callable[..., Any]
_TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A node as the makers of functions see it.

    Attributes:
        op: its operator.
        name: of the node.
        attributes: its own, without defaults.
        constants: of its inputs by position.
    """

    op: str
    name: str
    attributes: dict[str, Any]
    constants: dict[int, NDArray[Any]] = field(repr=False)

    def ints(self, position: int, attribute: str) -> list[int]:
        """A constant input, or the attribute that stood for it in earlier opsets."""
        if position in self.constants:
            return [int(value) for value in self.constants[position].reshape(-1)]
        return list(self.attributes.get(attribute, []))

    def refusal(self, what: str) -> BuildError:
        """An error that names the node."""
        return BuildError(f"{self.op} {self.name} has {what}, which no graph of brixel-export has; run it elsewhere")


class TorchGraph(nn.Module):
    """A graph as a module; move it with `.to(device)`, which leaves all types alone.

    Args:
        model: of brixel-export: fp32, fp16, bf16, or INT8 as Q/DQ.

    Raises:
        BuildError: an operator, or a form of one, that we do not export.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = model.graph
        initializers = {entry.name: entry for entry in graph.initializer}
        arrays = {name: numpy_helper.to_array(entry) for name, entry in initializers.items()}
        self.input_name = graph.input[0].name
        self.output_names = [entry.name for entry in graph.output]
        self._slots = {name: f"constant_{position}" for position, name in enumerate(initializers)}
        for name, slot in self._slots.items():
            self.register_buffer(slot, _tensor(arrays[name], initializers[name].data_type))
        self._steps: list[tuple[Function, list[str], list[str], list[str]]] = []
        last = {name: position for position, node in enumerate(graph.node) for name in node.input}
        for position, node in enumerate(graph.node):
            done = [name for name in dict.fromkeys(node.input) if last[name] == position and name not in initializers]
            done = [name for name in done if name and name not in self.output_names]
            self._steps.append((_function_of(node, arrays), list(node.input), list(node.output), done))

    def forward(self, image: Tensor) -> list[Tensor]:
        """(1, H, W, 3) uint8 -> the outputs, in the order of `output_names`."""
        values: dict[str, Any] = {name: getattr(self, slot) for name, slot in self._slots.items()}
        values[""] = None
        values[self.input_name] = image
        for function, inputs, outputs, done in self._steps:
            results = function(*(values[name] for name in inputs))
            values.update(zip(outputs, results if isinstance(results, (tuple, list)) else (results,), strict=True))
            for name in done:
                del values[name]
        return [values[name] for name in self.output_names]


def _tensor(array: NDArray[Any], kind: int) -> Tensor:
    if kind == TensorProto.BFLOAT16:  # numpy has no such type; onnx gives it as ml_dtypes
        return torch.from_numpy(np.array(array.astype(np.float32))).to(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def _function_of(node: onnx.NodeProto, arrays: dict[str, NDArray[Any]]) -> Function:
    operation = Operation(
        op=node.op_type,
        name=node.name,
        attributes={attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute},
        constants={position: arrays[name] for position, name in enumerate(node.input) if name in arrays},
    )
    if node.op_type in _PLAIN:
        return _PLAIN[node.op_type]
    if node.op_type not in _MAKERS:
        raise BuildError(f"{node.op_type} {node.name} is not among the operators that brixel-export writes")
    return _MAKERS[node.op_type](operation)


def _cast(operation: Operation) -> Function:
    kind = _TYPES[operation.attributes["to"]]
    return lambda x: x.to(kind)


def _reshape(operation: Operation) -> Function:
    shape = operation.ints(1, "shape")
    if 0 in shape and operation.attributes.get("allowzero", 0):
        raise operation.refusal("a size 0")
    # 0 stands for the size that the input has there.
    return lambda x, _: x.reshape([size or x.shape[axis] for axis, size in enumerate(shape)])


def _expand(operation: Operation) -> Function:
    shape = operation.ints(1, "shape")
    return lambda x, _: x.broadcast_to(torch.broadcast_shapes(tuple(x.shape), tuple(shape)))


def _slice(operation: Operation) -> Function:
    starts, ends = operation.ints(1, "starts"), operation.ints(2, "ends")
    axes = operation.ints(3, "axes") or list(range(len(starts)))
    steps = operation.ints(4, "steps") or [1] * len(starts)
    if min(steps) < 1:
        raise operation.refusal(f"steps {steps}")

    def cut(x: Tensor, *_: Tensor) -> Tensor:
        index = [slice(None)] * x.ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            index[axis] = slice(start, min(end, x.shape[axis]), step)
        return x[tuple(index)]

    return cut


def _split(operation: Operation) -> Function:
    sizes, count = operation.ints(1, "split"), operation.attributes.get("num_outputs")
    axis = operation.attributes.get("axis", 0)

    def split(x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, sizes or -(-x.shape[axis] // count), dim=axis)

    return split


def _gather(operation: Operation) -> Function:
    axis, index = operation.attributes.get("axis", 0), operation.constants.get(1)
    if index is None or index.ndim > 1:
        raise operation.refusal("indices that are no constant list")
    if index.ndim == 0:
        return lambda x, _: x.select(axis, int(index))
    return lambda x, indices: torch.index_select(x, axis, indices)


def _resize(operation: Operation) -> Function:
    told = {key: operation.attributes.get(key) for key in ("mode", "coordinate_transformation_mode", "antialias")}
    if told["mode"] != b"linear" or told["coordinate_transformation_mode"] not in (None, b"half_pixel"):
        raise operation.refusal(f"{told}")
    if told["antialias"]:
        raise operation.refusal("antialiasing")
    sizes, scales = operation.constants.get(3), operation.constants.get(2)

    def resize(x: Tensor, *_: Tensor) -> Tensor:
        if sizes is not None and sizes.size:
            size = [int(value) for value in sizes[2:]]
        else:
            assert scales is not None
            size = [int(np.floor(side * scale)) for side, scale in zip(x.shape[2:], scales[2:], strict=True)]
        return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)

    return resize


def _pad(operation: Operation) -> Function:
    if operation.attributes.get("mode", b"constant") != b"constant":
        raise operation.refusal("another mode than constant")
    pads = operation.ints(1, "pads")
    value = float(operation.constants[2]) if 2 in operation.constants else 0.0
    half = len(pads) // 2
    # ONNX: all beginnings, then all ends, from the first axis; torch: pairs, from the last.
    pairs = [pads[axis + side * half] for axis in reversed(range(half)) for side in (0, 1)]
    return lambda x, *_: functional.pad(x, pairs, value=value)


def _symmetric_pads(operation: Operation) -> list[int]:
    pads = operation.attributes.get("pads", [0, 0, 0, 0])
    if list(pads[:2]) != list(pads[2:]) or operation.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise operation.refusal(f"pads {pads}")
    return list(pads[:2])


def _conv(operation: Operation) -> Function:
    given = operation.attributes
    options = {
        "stride": given.get("strides", [1, 1]),
        "padding": _symmetric_pads(operation),
        "dilation": given.get("dilations", [1, 1]),
        "groups": given.get("group", 1),
    }
    return lambda x, weight, bias=None: functional.conv2d(x, weight, bias, **options)


def _pool(pool: Function) -> Callable[[Operation], Function]:
    def make(operation: Operation) -> Function:
        given, padding = operation.attributes, _symmetric_pads(operation)
        if given.get("ceil_mode", 0) or set(given.get("dilations", [1])) != {1}:
            raise operation.refusal("dilations or ceil_mode")
        if any(padding) and pool is functional.avg_pool2d:
            raise operation.refusal(f"pads {padding}")
        kernel, stride = given["kernel_shape"], given.get("strides", [1, 1])
        return lambda x: pool(x, kernel, stride=stride, padding=padding)

    return make


def _gemm(operation: Operation) -> Function:
    given = operation.attributes
    if given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1:
        raise operation.refusal("factors alpha and beta")
    turned = given.get("transA", 0), given.get("transB", 0)

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = (x.T if turn else x for x, turn in zip((a, b), turned, strict=True))
        return a @ b if c is None else torch.addmm(c, a, b)

    return gemm


def _grid_sample(operation: Operation) -> Function:
    given = operation.attributes
    if given.get("mode", b"bilinear") not in (b"bilinear", b"linear") or given.get("align_corners", 0):
        raise operation.refusal(f"mode {given.get('mode')}")
    padding = given.get("padding_mode", b"zeros").decode()
    return lambda x, grid: functional.grid_sample(x, grid, "bilinear", padding, align_corners=False)


def _layer_norm(operation: Operation) -> Function:
    axis, epsilon = operation.attributes.get("axis", -1), operation.attributes.get("epsilon", 1e-5)
    if operation.attributes.get("stash_type", 1) != 1:
        raise operation.refusal("statistics that are not fp32")
    # Torch, too, computes the statistics of half tensors in fp32.
    return lambda x, weight, bias=None: functional.layer_norm(x, x.shape[axis:], weight, bias, epsilon)


def _instance_norm(operation: Operation) -> Function:
    epsilon = operation.attributes.get("epsilon", 1e-5)
    return lambda x, weight, bias: functional.instance_norm(x, weight=weight, bias=bias, eps=epsilon)


def _reduce_sum(operation: Operation) -> Function:
    axes, keeps = operation.ints(1, "axes"), bool(operation.attributes.get("keepdims", 1))
    return lambda x, *_: x.sum(dim=axes, keepdim=keeps)


def _squeeze(operation: Operation) -> Function:
    axes = operation.ints(1, "axes")
    return lambda x, *_: x.squeeze(tuple(axes))


def _unsqueeze(operation: Operation) -> Function:
    axes = sorted(operation.ints(1, "axes"))

    def unsqueeze(x: Tensor, *_: Tensor) -> Tensor:
        for axis in axes:
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _along(operation: Operation, x: Tensor, scale: Tensor) -> Tensor:
    """A scale a channel, shaped to multiply x; one scale for all is left as it is."""
    if scale.ndim == 0 or scale.numel() == 1:
        return scale.reshape(())
    shape = [1] * x.ndim
    shape[operation.attributes.get("axis", 1)] = -1
    return scale.reshape(shape)


def _quantize(operation: Operation) -> Function:
    zero = operation.constants.get(2)
    if zero is None or zero.dtype != np.int8 or zero.any():
        raise operation.refusal("a zero point that is not int8 0")
    return lambda x, scale, _: (x / _along(operation, x, scale)).round().clamp(-128, 127).to(torch.int8)


def _dequantize(operation: Operation) -> Function:
    zero = operation.constants.get(2)
    if zero is not None and zero.any():
        raise operation.refusal("a zero point that is not 0")
    return lambda x, scale, *_: x.to(scale.dtype) * _along(operation, x, scale)


def _axis(function: Function, default: int) -> Callable[[Operation], Function]:
    """For functions of (tensors, axis)."""

    def make(operation: Operation) -> Function:
        axis = operation.attributes.get("axis", default)
        return lambda *tensors: function(tensors, axis)

    return make


def _transpose(operation: Operation) -> Function:
    order = operation.attributes["perm"]
    return lambda x: x.permute(order)


_PLAIN: dict[str, Function] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Clip": lambda x, low=None, high=None: torch.clamp(x, low, high),
    "Div": torch.div,
    "Erf": torch.erf,
    "Floor": torch.floor,
    "Identity": lambda x: x,
    "MatMul": torch.matmul,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
}
_MAKERS: dict[str, Callable[[Operation], Function]] = {
    "AveragePool": _pool(functional.avg_pool2d),
    "Cast": _cast,
    "Concat": _axis(lambda tensors, axis: torch.cat(tensors, dim=axis), 0),
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _axis(lambda tensors, axis: torch.gather(tensors[0], axis, tensors[1]), 0),
    "Gemm": _gemm,
    "GridSample": _grid_sample,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MaxPool": _pool(functional.max_pool2d),
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "ReduceSum": _reduce_sum,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Softmax": _axis(lambda tensors, axis: torch.softmax(tensors[0], dim=axis), -1),
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
