"""Small ONNX graphs with the patterns that we export: uint8 pixels in, `features` out. Made with onnx alone."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ELEMENTS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
HEIGHT, WIDTH, DIM = 32, 48, 16  # not square: a swap of axes must not go unseen


class GraphMaker:
    """Nodes and weights of a graph whose float type is one of ELEMENTS."""

    def __init__(self, precision="fp32", opset=17):
        self.element, self.opset = ELEMENTS[precision], opset
        self.nodes, self.weights = [], []
        self.random = np.random.default_rng(0)

    def weight(self, name, *shape, scale=0.1):
        values = (self.random.standard_normal(shape) * scale).astype(np.float32)
        tensor = helper.make_tensor(name, self.element, shape, values.ravel().tolist())
        self.weights.append(tensor)
        return name

    def constant(self, name, array):
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, operator, inputs, output, name=None, **attributes):
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=name or f"{operator}_{output}", **attributes)
        )
        return output

    def pixels(self):
        """Cast first, then to (1, 3, H, W): TensorRT takes uint8 into a Cast and into nothing else."""
        self.node("Cast", ["image"], "pixels", "cast_in", to=self.element)
        return self.node("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2])

    def map(self, stride=4):
        """(1, DIM, H / stride, W / stride)."""
        weight = self.weight("patch_w", DIM, 3, stride, stride)
        return self.node(
            "Conv", [self.pixels(), weight], "map", "patch", strides=[stride, stride], kernel_shape=[stride, stride]
        )

    def tokens(self, stride=8):
        """(1, N, DIM)."""
        count = (HEIGHT // stride) * (WIDTH // stride)
        shape = self.constant("flat", np.array([1, DIM, count], np.int64))
        flat = self.node("Reshape", [self.map(stride), shape], "flat_map")
        return self.node("Transpose", [flat], "tokens", perm=[0, 2, 1])

    def back(self, tokens, stride=8):
        """Tokens as (1, DIM, h, w)."""
        shape = self.constant("grid", np.array([1, DIM, HEIGHT // stride, WIDTH // stride], np.int64))
        return self.node("Reshape", [self.node("Transpose", [tokens], "columns", perm=[0, 2, 1]), shape], "grid_map")

    def model(self, features, element=None, extra_outputs=()):
        """The finished model; its output has the graph's type unless told otherwise."""
        self.node("Identity", [features], "features", "out")
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])
        outputs = [helper.make_tensor_value_info("features", element or self.element, None)]
        outputs += [helper.make_tensor_value_info(name, self.element, None) for name in extra_outputs]
        graph = helper.make_graph(self.nodes, "small", [image], outputs, initializer=self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
        return model


def layer_norm(make, tokens, name="norm"):
    scale, bias = make.weight(f"{name}_g", DIM), make.weight(f"{name}_b", DIM)
    return make.node("LayerNormalization", [tokens, scale, bias], f"{name}_out", name, axis=-1, epsilon=1e-6)


def attention(make, tokens):
    """One head: softmax((x Wq / 4) (x Wk)^T) x Wv, added to x."""
    query, key, value = (make.node("MatMul", [tokens, make.weight(f"w{k}", DIM, DIM)], k, f"fc_{k}") for k in "qkv")
    scaled = make.node("Mul", [query, make.weight("head_scale", 1)], "q_scaled")
    turned = make.node("Transpose", [key], "k_turned", perm=[0, 2, 1])
    scores = make.node("MatMul", [scaled, turned], "scores", "qk")
    weights = make.node("Softmax", [scores], "probabilities", "softmax", axis=-1)
    return make.node("Add", [make.node("MatMul", [weights, value], "heads", "pv"), tokens], "attended")


def vit(precision="fp32", opset=17):
    """Patch embedding, LayerNorm, attention: the patterns of a ViT."""
    make = GraphMaker(precision, opset)
    return make.model(make.back(attention(make, layer_norm(make, make.tokens()))))


def vit_with_islands(precision="fp16"):
    """The same, computed in fp32 between casts from the map to the end of the LayerNorm."""
    make = GraphMaker(precision)
    make.node("Cast", [make.map(8)], "map_32", to=TensorProto.FLOAT)
    shape = make.constant("flat", np.array([1, DIM, (HEIGHT // 8) * (WIDTH // 8)], np.int64))
    tokens = make.node(
        "Transpose", [make.node("Reshape", ["map_32", shape], "flat_map", "flat")], "tokens", "turn", perm=[0, 2, 1]
    )
    make.element = TensorProto.FLOAT
    normed = layer_norm(make, tokens)
    make.element = ELEMENTS[precision]
    return make.model(make.back(attention(make, make.node("Cast", [normed], "normed_16", to=make.element))))


def masked(precision="fp16"):
    """What is below zero replaced, by Greater and Where: the first input of Where is no number."""
    make = GraphMaker(precision)
    tokens, zero = make.tokens(), make.weight("zero", 1)
    mask = make.node("Greater", [tokens, zero], "mask")
    return make.model(make.back(make.node("Where", [mask, tokens, zero], "kept")))


def quantized(base="fp32"):
    """A Linear with explicit symmetric Q/DQ: scalar scale of the activation, one scale a column of the weight."""
    make = GraphMaker(base, opset=17 if base == "fp32" else 19)  # scales in fp16 are of opset 19
    tokens = make.tokens()
    zero = make.constant("zero", np.int8(0))
    scale = make.constant("scale", np.asarray(0.05, np.float32 if base == "fp32" else np.float16))
    quantized_tokens = make.node("QuantizeLinear", [tokens, scale, zero], "tokens_q")
    restored = make.node("DequantizeLinear", [quantized_tokens, scale, zero], "tokens_dq")
    weight = make.constant("w_q", make.random.integers(-127, 128, (DIM, DIM)).astype(np.int8))
    scales = make.constant("w_scale", np.full(DIM, 0.01, np.float32 if base == "fp32" else np.float16))
    zeros = make.constant("w_zero", np.zeros(DIM, np.int8))
    weight_dq = make.node("DequantizeLinear", [weight, scales, zeros], "w_dq", axis=1)
    return make.model(make.back(make.node("MatMul", [restored, weight_dq], "linear", "fc")))


def grid_sample(precision="fp32", opset=17, mode="bilinear"):
    """Samples of the map at constant places, in fp32 whatever the graph."""
    make = GraphMaker(precision, opset)
    source = make.map()
    if precision != "fp32":
        source = make.node("Cast", [source], "map_32", to=TensorProto.FLOAT)
    places = make.random.uniform(-1.1, 1.1, (1, HEIGHT // 4, WIDTH // 4, 2)).astype(np.float32)
    grid = make.constant("places", places)
    attributes = {"mode": mode, "padding_mode": "zeros", "align_corners": 0}
    sampled = make.node("GridSample", [source, grid], "samples", "sample", **attributes)
    if precision != "fp32":
        sampled = make.node("Cast", [sampled], "samples_16", to=make.element)
    return make.model(sampled)


def save(model, path):
    onnx.save(model, path)
    return path


def norm_in_pieces(precision="fp32"):
    """A LayerNorm in single operators, as exporters before opset 17 wrote it."""
    make = GraphMaker(precision)
    tokens = make.tokens()
    mean = make.node("ReduceMean", [tokens], "mean", axes=[-1])
    off = make.node("Sub", [tokens, mean], "off")
    square = make.node("Pow", [off, make.weight("two", 1)], "square")
    spread = make.node("Sqrt", [make.node("ReduceMean", [square], "variance", axes=[-1])], "spread")
    return make.model(make.back(make.node("Div", [off, spread], "normed")))


def transposed_convolution(precision="fp32"):
    """Twice the map's size by a ConvTranspose."""
    make = GraphMaker(precision)
    weight = make.weight("up_w", DIM, DIM, 2, 2)
    return make.model(make.node("ConvTranspose", [make.map(), weight], "up", strides=[2, 2], kernel_shape=[2, 2]))


def group_norm(precision="fp32"):
    """GroupNorm as torch's exporter writes it below opset 21: groups as channels of an InstanceNormalization."""
    make = GraphMaker(precision)
    source = make.map()
    groups = 4
    apart = make.constant("apart", np.array([1, groups, -1], np.int64))
    together = make.constant("together", np.array([1, DIM, HEIGHT // 4, WIDTH // 4], np.int64))
    one, zero = make.weight("one", groups), make.weight("none", groups)
    flat = make.node("Reshape", [source, apart], "groups")
    normed = make.node("Reshape", [make.node("InstanceNormalization", [flat, one, zero], "inner"), together], "outer")
    scaled = make.node("Mul", [normed, make.weight("group_g", DIM, 1, 1)], "scaled")
    return make.model(make.node("Add", [scaled, make.weight("group_b", DIM, 1, 1)], "shifted"))


def gelu(precision="fp32"):
    """Exact GELU by Erf, as below opset 20."""
    make = GraphMaker(precision)
    tokens = make.tokens()
    inner = make.node("Div", [tokens, make.weight("root_two", 1)], "by_root")
    bell = make.node("Add", [make.node("Erf", [inner], "erf"), make.weight("unit", 1)], "bell")
    return make.model(
        make.back(make.node("Mul", [make.node("Mul", [tokens, bell], "gated"), make.weight("half", 1)], "gelu"))
    )


def upsampled(precision="fp32", **changes):
    """Twice the size by a linear Resize; upsampled(antialias=1) is what TensorRT refuses."""
    make = GraphMaker(precision, opset=18)
    scales = make.constant("scales", np.array([1, 1, 2, 2], np.float32))
    attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel", **changes}
    return make.model(make.node("Resize", [make.map(), "", scales], "up", **attributes))


def shuffled(precision="fp32"):
    """PixelShuffle: DepthToSpace in CRD order."""
    make = GraphMaker(precision)
    return make.model(make.node("DepthToSpace", [make.map()], "wide", blocksize=2, mode="CRD"))


def gathered(precision="fp32"):
    """Bilinear samples by four gathers from a padded map, the places computed in fp32."""
    make = GraphMaker(precision)
    count, row = (HEIGHT // 4) * (WIDTH // 4), WIDTH // 4 + 2
    pads = make.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    padded = make.node("Pad", [make.map(), pads], "padded")
    flat = make.node("Reshape", [padded, make.constant("line", np.array([1, DIM, -1], np.int64))], "line_map")
    places = make.constant("x", make.random.uniform(0, 4, (1, 1, count)).astype(np.float32))
    low = make.node("Floor", [places], "low")
    weight = make.node("Cast", [make.node("Sub", [places, low], "part")], "part_16", to=make.element)
    first = make.node("Cast", [low], "corner", to=TensorProto.INT64)
    shape = make.constant("many", np.array([1, DIM, count], np.int64))
    total = None
    for number, step in enumerate((0, 1, row, row + 1)):
        index = make.node("Add", [first, make.constant(f"step{number}", np.array([step], np.int64))], f"index{number}")
        wide = make.node("Expand", [index, shape], f"wide{number}")
        part = make.node("Mul", [make.node("GatherElements", [flat, wide], f"g{number}", axis=2), weight], f"m{number}")
        total = part if total is None else make.node("Add", [total, part], f"sum{number}")
    together = make.constant("map_shape", np.array([1, DIM, HEIGHT // 4, WIDTH // 4], np.int64))
    return make.model(make.node("Reshape", [total, together], "gathered"))


def transpose_first():
    """uint8 pixels turned before they are cast, which TensorRT refuses."""
    make = GraphMaker()
    turned = make.node("Transpose", ["image"], "turned", "turn_uint8", perm=[0, 3, 1, 2])
    return make.model(make.node("Cast", [turned], "late", to=TensorProto.FLOAT))


def integer_bias():
    """A Linear whose bias went through int32 quantisation, as onnxruntime's quantiser does by default."""
    make = GraphMaker()
    bias = make.constant("bias_q", np.arange(DIM, dtype=np.int32))
    scale = make.constant("bias_scale", np.asarray(0.01, np.float32))
    zero = make.constant("bias_zero", np.int32(0))
    real = make.node("DequantizeLinear", [bias, scale, zero], "bias", "bias_DequantizeLinear")
    product = make.node("MatMul", [make.tokens(), make.weight("w", DIM, DIM)], "product")
    return make.model(make.back(make.node("Add", [product, real], "biased")))
