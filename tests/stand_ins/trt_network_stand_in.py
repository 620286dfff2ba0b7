"""TensorRT's network and ONNX parser, acted: objects that have what their release has, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

SURFACES = json.loads((Path(__file__).resolve().parents[1] / "trt_surfaces.json").read_text(encoding="utf-8"))

ELEMENT_NAMES = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF", 16: "BF16"}
LAYER_OF = {
    "Cast": "CAST", "Conv": "CONVOLUTION", "MatMul": "MATRIX_MULTIPLY", "Gemm": "MATRIX_MULTIPLY", "Relu": "ACTIVATION",
    "Softmax": "SOFTMAX", "LayerNormalization": "NORMALIZATION", "GridSample": "GRID_SAMPLE", "Resize": "RESIZE",
    "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Add": "ELEMENTWISE", "Mul": "ELEMENTWISE",
    "Constant": "CONSTANT",
}  # fmt: skip


def members_of(release: str, name: str) -> frozenset[str]:
    """What a class has in a release: as extracted, and what the extraction is known to leave out."""
    found = set(SURFACES["releases"][release].get(name, ()))
    for addition in SURFACES["additions"]:
        if release in addition["releases"] and addition["class"] == name:
            found |= set(addition["members"])
    return frozenset(found)


class Strict:
    """An object that has what its release has, and nothing else, to read or to set."""

    _surface = ""

    def __init__(self, world):
        object.__setattr__(self, "_world", world)
        object.__setattr__(self, "_allowed", members_of(world.surface, self._surface) - world.hidden)

    def __getattribute__(self, name):
        if not name.startswith("_") and name not in object.__getattribute__(self, "_allowed"):
            raise AttributeError(f"TensorRT {self._world.release} has no {self._surface}.{name}")
        return object.__getattribute__(self, name)

    def __setattr__(self, name, value):
        if not name.startswith("_"):
            if name not in self._allowed:
                raise AttributeError(f"TensorRT {self._world.release} has no {self._surface}.{name}")
            self._world.record(f"{self._surface}.{name}", value)
        object.__setattr__(self, name, value)


class Tensor(Strict):
    _surface = "ITensor"

    def __init__(self, world, name, dtype, shape):
        super().__init__(world)
        vars(self).update(name=name, dtype=dtype, shape=shape)


class Layer(Strict):
    _surface = "ILayer"

    def __init__(self, world, name, kind, outputs):
        super().__init__(world)
        vars(self).update(name=name, type=kind, num_outputs=len(outputs), _outputs=outputs)

    def get_output(self, index):
        return self._outputs[index]

    def set_output_type(self, index, dtype):
        self._world.record("set_output_type", [self._outputs[index].name, dtype.name])


class Network(Strict):
    _surface = "INetworkDefinition"

    def __init__(self, world, flags):
        super().__init__(world)
        vars(self).update(_flags=flags, _layers=[], _inputs=[], _outputs=[])

    num_layers = property(lambda self: len(self._layers))
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_layer(self, index):
        return self._layers[index]

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]


class ParserError(Strict):
    _surface = "ParserError"

    def __init__(self, world, node, operator, text):
        super().__init__(world)
        vars(self).update(_node=node, _operator=operator, _text=text)

    def desc(self):
        return self._text

    def node(self):
        return 7

    def node_name(self):
        return self._node

    def node_operator(self):
        return self._operator


class Parser(Strict):
    _surface = "OnnxParser"

    def __init__(self, world, network, logger):
        super().__init__(world)
        vars(self).update(_network=network, _logger=logger, _errors=[])

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index):
        return self._errors[index]

    def set_flag(self, flag):
        self._world.record("parser.set_flag", flag.name)

    def parse_from_file(self, path):
        world, network = self._world, self._network
        world.record("parse_from_file", Path(path).name)
        flags = world.enums["NetworkDefinitionCreationFlag"]
        if world.release.startswith("8.") and not network._flags & (1 << flags.EXPLICIT_BATCH):
            self._errors.append(ParserError(world, "", "", "implicit batch is not supported"))
        if world.fault["parser_errors"]:
            for node, operator, text in world.fault["parser_errors"]:
                self._errors.append(ParserError(world, node, operator, text))
        if self._errors:
            return False
        self._fill(onnx.shape_inference.infer_shapes(onnx.load(path)).graph)
        return True

    def _fill(self, graph):
        world, network = self._world, self._network
        infos = {info.name: info for info in (*graph.input, *graph.value_info, *graph.output)}

        def tensor(name):
            if name not in infos:
                return Tensor(world, name, world.enums["DataType"].FLOAT, ())
            kind = infos[name].type.tensor_type
            shape = tuple(dim.dim_value for dim in kind.shape.dim)
            return Tensor(world, name, world.enums["DataType"][ELEMENT_NAMES[kind.elem_type]], shape)

        kinds = world.enums["LayerType"]
        for node in graph.node:
            kind = kinds[LAYER_OF.get(node.op_type, "SHUFFLE")]
            network._layers.append(Layer(world, node.name, kind, [tensor(name) for name in node.output]))
        network._inputs.extend(tensor(info.name) for info in graph.input)
        network._outputs.extend(tensor(info.name) for info in graph.output)
