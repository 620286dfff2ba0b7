"""A hand-made ViT with adapter in ONNX, and the outliers to plant in it: the test model of everything in calib.

Same anatomy as the exporter's fused graphs at a hundredth of the size: uint8 pixels in, patch embedding, register
tokens, LayerNormalization, one fused qkv, softmax attention, both forms of GELU, a convolutional stem, an extractor
that samples with GridSample and a convolution head. The injectors are those of the quantisation notes, T1: all but
`massive` leave the function as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from brixel_edge.calib.choice.sensitivity import sweep
from brixel_edge.calib.engines import OrtEngine
from brixel_edge.calib.frames import FrameStore, store_frames
from brixel_edge.calib.graph import Graph, load_graph
from brixel_edge.calib.layers import find_layers
from brixel_edge.calib.quantize import Settings
from brixel_edge.calib.ranges.calibration import calibrate
from brixel_edge.calib.ranges.smooth import ALPHAS
from brixel_edge.proof.parity import cell_cosines

Array = NDArray[np.float32]
PREFIX = 5  # class token and four registers, as in DINOv3
POINTS = 4


@dataclass
class ToyVit:
    """Weights of the test model; `graph()` writes them down as ONNX.

    Attributes:
        dim: width of a token.
        depth: transformer blocks.
        heads: attention heads; also those of the extractor.
        size: side of the square image [px], a multiple of 16.
        seed: of the random weights.
        flat: write linears as exporters do that have a bias: Reshape to rows, Gemm, Reshape back.
    """

    dim: int = 128
    depth: int = 4
    heads: int = 4
    size: int = 112
    seed: int = 0
    flat: bool = False
    weights: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        d = self.dim

        def dense(name: str, k: int, n: int, gain: float = 1.0) -> None:
            self.weights[f"{name}.w"] = (rng.standard_normal((k, n)) * gain / np.sqrt(k)).astype(np.float32)
            self.weights[f"{name}.b"] = (rng.standard_normal(n) * 0.02).astype(np.float32)

        def norm(name: str) -> None:
            self.weights[f"{name}.g"] = (1 + 0.1 * rng.standard_normal(d)).astype(np.float32)
            self.weights[f"{name}.b"] = (0.05 * rng.standard_normal(d)).astype(np.float32)

        def conv(name: str, cin: int, cout: int, kernel: int) -> None:
            scale = np.sqrt(2 / (cin * kernel * kernel))
            self.weights[f"{name}.w"] = (rng.standard_normal((cout, cin, kernel, kernel)) * scale).astype(np.float32)
            self.weights[f"{name}.b"] = (rng.standard_normal(cout) * 0.02).astype(np.float32)

        conv("patch", 3, d, 16)
        self.weights["prefix"] = rng.standard_normal((1, PREFIX, d)).astype(np.float32)
        self.weights["position"] = (0.3 * rng.standard_normal((1, self.patches + PREFIX, d))).astype(np.float32)
        for block in range(self.depth):
            norm(f"{block}.norm1")
            dense(f"{block}.qkv", d, 3 * d)
            dense(f"{block}.proj", d, d)
            norm(f"{block}.norm2")
            dense(f"{block}.fc1", d, 4 * d)
            dense(f"{block}.fc2", 4 * d, d)
        norm("norm")
        conv("stem1", 3, 16, 3)
        conv("stem2", 16, 32, 3)
        conv("stem3", 32, d, 1)
        norm("query_norm")
        norm("feat_norm")
        dense("value_proj", d, d)
        dense("sampling_offsets", d, self.heads * POINTS * 2, 0.1)
        dense("attention_weights", d, self.heads * POINTS)
        dense("output_proj", d, d, 6)
        conv("head1", d, 32, 1)
        conv("head2", 32, 32, 3)
        conv("head3", 32, d, 1)

    @property
    def grid(self) -> int:
        """Tokens along a side."""
        return self.size // 16

    @property
    def patches(self) -> int:
        """Patch tokens."""
        return self.grid**2

    def plant_layer_norm(self, seed: int = 0, channels: int = 5) -> ToyVit:
        """Amplify channels of every block's LayerNorms 20 to 80 times and undo it in their consumers."""
        rng = np.random.default_rng(seed)
        for block in range(self.depth):
            for norm, consumer in (("norm1", "qkv"), ("norm2", "fc1")):
                chosen = rng.choice(self.dim, channels, replace=False)
                factor = rng.uniform(20, 80, channels).astype(np.float32)
                self.weights[f"{block}.{norm}.g"][chosen] *= factor
                self.weights[f"{block}.{norm}.b"][chosen] *= factor
                self.weights[f"{block}.{consumer}.w"][chosen] /= factor[:, None]
        return self

    def plant_values(self, seed: int = 0, channels: int = 4) -> ToyVit:
        """Amplify channels of V 8 to 25 times and undo it in the attention's output projection."""
        rng = np.random.default_rng(seed + 1)
        for block in range(self.depth):
            chosen = rng.choice(self.dim, channels, replace=False)
            factor = rng.uniform(8, 25, channels).astype(np.float32)
            self.weights[f"{block}.qkv.w"][:, 2 * self.dim + chosen] *= factor
            self.weights[f"{block}.qkv.b"][2 * self.dim + chosen] *= factor
            self.weights[f"{block}.proj.w"][chosen] /= factor[:, None]
        return self

    def plant_massive(self, frames: Iterable[NDArray[np.uint8]], block: int = 1, level: float = 300.0) -> ToyVit:
        """Give one hidden neuron to the prefix tokens: it fires at `level` there only and writes half of it.

        Such neurons are what registers and class tokens of trained ViTs have. The direction is Fisher's, from the
        activations that `frames` give.
        """
        session = ort.InferenceSession(self.graph(taps=(f"{block}.norm2",)).SerializeToString())
        rows = np.concatenate([session.run([f"{block}.norm2"], {"image": f[None]})[0] for f in frames])
        prefix, patch = rows[:, :PREFIX].reshape(-1, self.dim), rows[:, PREFIX:].reshape(-1, self.dim)
        spread = np.cov(prefix.T) + np.cov(patch.T) + 0.05 * np.eye(self.dim)
        direction = np.linalg.solve(spread, prefix.mean(0) - patch.mean(0))
        far, near = (prefix @ direction).min(), (patch @ direction).max()
        slope = (level + 40) / (far - near)
        assert far > near, "the prefix tokens are not linearly separable; choose another block"
        self.weights[f"{block}.fc1.w"][:, 0] = slope * direction
        self.weights[f"{block}.fc1.b"][0] = -40 - slope * near
        self.weights[f"{block}.fc2.w"][0] = 0
        self.weights[f"{block}.fc2.w"][0, 7] = 0.5
        return self

    def graph(self, taps: tuple[str, ...] = ()) -> onnx.ModelProto:
        """The model as ONNX, opset 20: `image` uint8 (1, size, size, 3) to `features` and `dense`.

        Args:
            taps: names of inner tensors to give as further outputs.
        """
        return _Writer(self).write(taps)


class _Writer:
    """Writes the nodes of one ToyVit."""

    def __init__(self, vit: ToyVit) -> None:
        self.vit = vit
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray] = {}

    def op(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}_{len(self.nodes)}", **attributes))
        return output

    def const(self, name: str, value: object, dtype: type = np.float32) -> str:
        self.constants[name] = np.asarray(value, dtype)
        return name

    def weight(self, name: str) -> str:
        return self.const(name, self.vit.weights[name])

    def linear(self, x: str, name: str) -> str:
        if self.vit.flat:
            k, n = self.vit.weights[f"{name}.w"].shape
            rows = self.reshape(x, [-1, k], f"{name}.rows")
            flat = self.op("Gemm", [rows, self.weight(f"{name}.w"), self.weight(f"{name}.b")], f"{name}.flat")
            return self.reshape(flat, [1, -1, n], name)
        product = self.op("MatMul", [x, self.weight(f"{name}.w")], f"{name}.product")
        return self.op("Add", [product, self.weight(f"{name}.b")], name)

    def norm(self, x: str, name: str) -> str:
        return self.op(
            "LayerNormalization", [x, self.weight(f"{name}.g"), self.weight(f"{name}.b")], name, axis=-1, epsilon=1e-6
        )

    def conv(self, x: str, name: str, stride: int = 1) -> str:
        kernel = self.vit.weights[f"{name}.w"].shape[2]
        pad = 0 if kernel == stride else kernel // 2
        shape = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": [pad] * 4}
        return self.op("Conv", [x, self.weight(f"{name}.w"), self.weight(f"{name}.b")], name, **shape)

    def reshape(self, x: str, shape: list[int], output: str) -> str:
        return self.op("Reshape", [x, self.const(f"{output}.shape", shape, np.int64)], output)

    def gelu(self, x: str, native: bool) -> str:
        if native:
            return self.op("Gelu", [x], f"{x}.gelu")
        inner = self.op("Div", [x, self.const("sqrt2", np.sqrt(2))], f"{x}.scaled")
        one = self.op("Add", [self.op("Erf", [inner], f"{x}.erf"), self.const("one", 1)], f"{x}.one")
        return self.op("Mul", [self.op("Mul", [x, one], f"{x}.twice"), self.const("half", 0.5)], f"{x}.gelu")

    def pixels(self) -> str:
        cast = self.op("Cast", ["image"], "image.float", to=TensorProto.FLOAT)
        chw = self.op("Transpose", [cast], "image.chw", perm=[0, 3, 1, 2])
        scaled = self.op("Mul", [chw, self.const("std", np.full((1, 3, 1, 1), 1 / 58.0))], "image.scaled")
        return self.op("Add", [scaled, self.const("mean", np.full((1, 3, 1, 1), -2.1))], "image.normal")

    def attention(self, x: str, block: int) -> str:
        d, heads = self.vit.dim, self.vit.heads
        tokens = self.vit.patches + PREFIX
        qkv = self.reshape(self.linear(x, f"{block}.qkv"), [1, tokens, 3, heads, d // heads], f"{block}.split")
        turned = self.op("Transpose", [qkv], f"{block}.turned", perm=[2, 0, 3, 1, 4])
        q, k, v = (
            self.op("Gather", [turned, self.const(f"index{i}", i, np.int64)], f"{block}.{'qkv'[i]}", axis=0)
            for i in range(3)
        )
        scale = self.const("head_scale", (d // heads) ** -0.5)
        q = self.op("Mul", [q, scale], f"{block}.q_scaled")
        keys = self.op("Transpose", [k], f"{block}.keys", perm=[0, 1, 3, 2])
        weights = self.op("Softmax", [self.op("MatMul", [q, keys], f"{block}.scores")], f"{block}.weights", axis=-1)
        mixed = self.op("MatMul", [weights, v], f"{block}.mixed")
        back = self.op("Transpose", [mixed], f"{block}.back", perm=[0, 2, 1, 3])
        return self.linear(self.reshape(back, [1, tokens, d], f"{block}.merged"), f"{block}.proj")

    def trunk(self, pixels: str) -> str:
        d, n = self.vit.dim, self.vit.patches
        flat = self.reshape(self.conv(pixels, "patch", 16), [1, d, n], "patch.flat")
        rows = self.op("Transpose", [flat], "patch.rows", perm=[0, 2, 1])
        x = self.op("Concat", [self.weight("prefix"), rows], "tokens", axis=1)
        x = self.op("Add", [x, self.weight("position")], "block0")
        for block in range(self.vit.depth):
            x = self.op("Add", [x, self.attention(self.norm(x, f"{block}.norm1"), block)], f"{block}.attended")
            hidden = self.gelu(self.linear(self.norm(x, f"{block}.norm2"), f"{block}.fc1"), native=block % 2 == 1)
            x = self.op("Add", [x, self.linear(hidden, f"{block}.fc2")], f"block{block + 1}")
        x = self.norm(x, "norm")
        ends = [self.const("first", [PREFIX], np.int64), self.const("last", [n + PREFIX], np.int64)]
        return self.op("Slice", [x, *ends, self.const("axis1", [1], np.int64)], "norm.patches")

    def sample(self, query: str, tokens: str) -> str:
        """Deformable attention of the (side, side) query grid on the (grid, grid) token map, as GridSample."""
        vit, heads = self.vit, self.vit.heads
        side, width = vit.size // 8, vit.dim // vit.heads
        count = side * side
        value = self.op(
            "Transpose", [self.linear(self.norm(tokens, "feat_norm"), "value_proj")], "value.turned", perm=[0, 2, 1]
        )
        value = self.reshape(value, [heads, width, vit.grid, vit.grid], "value")
        ticks = (np.arange(side) + 0.5) / side * 2 - 1
        centres = np.stack(np.meshgrid(ticks, ticks), -1).reshape(1, count, 1, 1, 2)
        offsets = self.reshape(self.linear(query, "sampling_offsets"), [1, count, heads, POINTS, 2], "offsets")
        place = self.op("Add", [offsets, self.const("centres", centres)], "places")
        turned = self.op("Transpose", [place], "places.turned", perm=[0, 2, 1, 3, 4])
        place = self.reshape(turned, [heads, count, POINTS, 2], "grid")
        sampled = self.op("GridSample", [value, place], "sampled", mode="linear", padding_mode="zeros", align_corners=0)
        mix = self.reshape(self.linear(query, "attention_weights"), [1, count, heads, POINTS], "mix.logits")
        mix = self.op("Transpose", [self.op("Softmax", [mix], "mix", axis=-1)], "mix.turned", perm=[2, 0, 1, 3])
        weighted = self.op("Mul", [sampled, mix], "weighted")
        summed = self.op("ReduceSum", [weighted, self.const("axis3", [3], np.int64)], "summed", keepdims=0)
        flat = self.reshape(summed, [1, vit.dim, count], "summed.flat")
        return self.linear(self.op("Transpose", [flat], "summed.rows", perm=[0, 2, 1]), "output_proj")

    def write(self, taps: tuple[str, ...]) -> onnx.ModelProto:
        vit, d = self.vit, self.vit.dim
        side = vit.size // 8
        pixels = self.pixels()
        tokens = self.trunk(pixels)
        stem = self.op("Relu", [self.conv(pixels, "stem1", 2)], "stem1.relu")
        stem = self.op("Relu", [self.conv(stem, "stem2", 2)], "stem2.relu")
        stem = self.conv(stem, "stem3", 2)
        c = self.op("Transpose", [self.reshape(stem, [1, d, side**2], "c.flat")], "c", perm=[0, 2, 1])
        c = self.op("Add", [c, self.sample(self.norm(c, "query_norm"), tokens)], "c.out")
        c = self.reshape(self.op("Transpose", [c], "c.turned", perm=[0, 2, 1]), [1, d, side, side], "c.map")
        x = self.op("Relu", [self.conv(c, "head1")], "head1.relu")
        x = self.op("Relu", [self.conv(x, "head2")], "head2.relu")
        x = self.op("Add", [self.conv(x, "head3"), c], "features")
        dense = self.op("Transpose", [tokens], "dense.flat", perm=[0, 2, 1])
        self.reshape(dense, [1, d, vit.grid, vit.grid], "dense")
        shapes = {"features": [1, d, side, side], "dense": [1, d, vit.grid, vit.grid]}
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
        outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in taps]
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, vit.size, vit.size, 3])
        constants = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "toy", [image], outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(model)
        return model


def toy_frames(count: int, size: int = 112, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Pictures with structure at every scale: sums of upsampled noise, a bright box and a gradient."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        picture = np.full((size, size, 3), rng.uniform(60, 190, 3))
        for cells in (4, 14, 56):
            noise = rng.standard_normal((-(-size // (size // cells)), -(-size // (size // cells)), 3)) * 28
            picture += np.kron(noise, np.ones((size // cells, size // cells, 1)))[:size, :size]
        y, x = rng.integers(0, size * 2 // 3, 2)
        picture[y : y + size // 3, x : x + size // 3] += rng.uniform(-90, 90, 3)
        frames.append(np.clip(picture, 0, 255).astype(np.uint8))
    return frames


def stored_frames(frames: Iterable[NDArray[np.uint8]]) -> FrameStore:
    """Frames as calibration takes them."""
    frames = list(frames)
    return store_frames(frames, frames[0].shape[:2])


def outlier_vit(**shape: int) -> ToyVit:
    """A ToyVit with all three kinds of outliers planted."""
    vit = ToyVit(**shape)
    return vit.plant_massive(toy_frames(16, vit.size, 99)).plant_layer_norm(vit.seed).plant_values(vit.seed)


def small_graph(
    nodes: list[onnx.NodeProto],
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, object],
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
    opset: int = 20,
) -> Graph:
    """A Graph of `nodes`; `shapes` gives those of inputs and outputs."""
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    body = helper.make_graph(nodes, "g", [info[name] for name in inputs], [info[name] for name in outputs], tensors)
    return Graph(helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=9))


TOY_FRAMES = toy_frames(40)
QUIET = Settings(threads=1, curve_points=0)


def stages(path: Path, alphas: Sequence[float] = ALPHAS) -> tuple:
    """(graph, layers, calibration, smoothed graph, candidates, effects) of a model."""
    graph = load_graph(path)
    layers = find_layers(graph)
    frames = [frame[None] for frame in TOY_FRAMES]
    found = calibrate(graph, "sha", frames[:24], ["f"] * 24, seed=0, threads=1, alphas=alphas)
    smoothed = found.smoothed(graph)
    candidates = found.integer_layers(layer for layer in layers if not layer.excluded)
    return graph, layers, found, smoothed, candidates, sweep(smoothed, candidates, frames[24:30], threads=1)


def losses(graph: Graph, lowered: Graph, frames: Iterable[NDArray[np.uint8]]) -> dict[str, float]:
    """1 - mean cosine of every output, on frames."""
    float_engine, engine = (OrtEngine(entry.serialized(), threads=1) for entry in (graph, lowered))
    pairs = [(float_engine.run(frame), engine.run(frame)) for frame in frames]
    return {
        name: float(1 - np.concatenate([cell_cosines(a[name], b[name]) for a, b in pairs]).mean())
        for name in graph.float_outputs
    }
