"""Strongly typed half-precision graphs: their types, their islands, and numbers that really are rounded."""

from collections import Counter

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from brixel_edge.errors import BuildError
from brixel_edge.export.graph.walk import element_types
from brixel_edge.export.half.islands import find_islands
from brixel_edge.export.half.ranges import TensorRange, measure_ranges
from brixel_edge.export.half.rounding import rounding_from_half
from brixel_edge.export.half.to_half import half_from_float
from brixel_edge.proof.parity import GATES, compare

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
SCALE = 3e4  # the residual stream of the default model reaches about 4; fp16 ends at 65504


def loaded(path) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(onnx.load(str(path)))


def run(model: onnx.ModelProto, images) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(["features"], {"image": image})[0] for image in images]


@pytest.fixture(scope="module")
def plain(mini_graph) -> onnx.ModelProto:
    return loaded(mini_graph("gridsample"))


@pytest.fixture(scope="module")
def gathered(mini_graph) -> onnx.ModelProto:
    return loaded(mini_graph("gather"))


@pytest.fixture(scope="module")
def ranges(plain, mini_images) -> dict[str, TensorRange]:
    return measure_ranges(plain, mini_images[:2])


@pytest.fixture(scope="module")
def reference(plain, mini_images) -> list[np.ndarray]:
    return run(plain, mini_images)


def names(islands) -> list[str]:
    return [island.node for island in islands]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_node_computes_in_one_type_and_the_islands_in_fp32(plain, ranges, precision):
    islands = set(names(find_islands(plain, ranges, precision)))
    typed = half_from_float(plain, precision, islands)
    types = element_types(onnx.shape_inference.infer_shapes(typed, strict_mode=True))
    floating = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
    for node in typed.graph.node:
        found = {types[name] for name in (*node.input, *node.output) if name and types[name] in floating}
        if node.op_type == "Cast":
            continue
        wanted = TensorProto.FLOAT if node.name in islands else HALF[precision]
        assert found == {wanted}, f"{node.op_type} {node.name}"
    assert [entry.type.tensor_type.elem_type for entry in typed.graph.input] == [TensorProto.UINT8]
    assert [entry.type.tensor_type.elem_type for entry in typed.graph.output] == [TensorProto.FLOAT]


def test_islands_by_meaning_are_those_that_half_cannot_express(plain, ranges):
    islands = find_islands(plain, ranges, "fp16")
    reasons = Counter(island.reason.split(":")[0] for island in islands)
    operators = Counter(island.op for island in islands)
    assert set(reasons) == {"pixels", "sampling coordinates", "bilinear sampling", "statistics of GroupNorm"}
    assert (reasons["pixels"], reasons["bilinear sampling"], reasons["statistics of GroupNorm"]) == (5, 6, 1)
    assert (operators["Gemm"], operators["GridSample"], operators["InstanceNormalization"]) == (6, 6, 1)
    makers = {name: node for node in plain.graph.node for name in node.output}
    for sampling in (node for node in plain.graph.node if node.op_type == "GridSample"):
        node = makers[sampling.input[1]]
        while node.op_type != "Gemm":  # from the grid up to the linear that predicts offsets
            assert node.name in names(islands)
            node = next(makers[name] for name in node.input if name in makers)
        assert node.name in names(islands)


def test_statistics_of_layer_norms_are_fp32_by_their_own_attribute(plain):
    norms = [node for node in plain.graph.node if node.op_type == "LayerNormalization"]
    stash = [attribute.i for node in norms for attribute in node.attribute if attribute.name == "stash_type"]
    assert len(norms) == 33
    assert set(stash) <= {1}  # 1, fp32, is also the default


def test_gathered_sampling_has_its_coordinates_and_weights_in_fp32(gathered, ranges):
    islands = find_islands(gathered, ranges, "bf16")
    operators = Counter(island.op for island in islands)
    assert operators["Floor"] == 12
    assert operators["Clip"] == 12
    assert "GatherElements" not in operators  # moves values; they may be half
    typed = half_from_float(gathered, "bf16", names(islands))
    types = element_types(onnx.shape_inference.infer_shapes(typed))
    gathers = [node for node in typed.graph.node if node.op_type == "GatherElements"]
    assert {types[node.output[0]] for node in gathers} == {TensorProto.BFLOAT16}


@pytest.mark.parametrize(("precision", "error"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_rounded_graph_passes_its_gate_and_is_not_fp32(plain, ranges, reference, mini_images, precision, error):
    typed = half_from_float(plain, precision, names(find_islands(plain, ranges, precision)))
    report = compare(reference, run(rounding_from_half(typed), mini_images))
    assert report.passes(GATES[precision])
    assert error / 20 < report.frobenius < error


@pytest.fixture(scope="module")
def large_map(tmp_path_factory) -> onnx.ModelProto:
    """One deformable attention over a map of 96 x 96 cells, sampling by gather."""
    import torch

    from brixel_edge.export.graph.to_onnx import _simplified, _traced
    from brixel_edge.network.deformable import DeformableAttention, reference_points

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = DeformableAttention(32)
            self.attention.sampler = "gather"
            torch.nn.init.normal_(self.attention.sampling_offsets.weight, std=0.3)
            tokens = torch.randn(1, 96 * 96, 32)
            self.register_buffer("tokens", tokens)
            self.register_buffer("references", reference_points(16, 16))

        def forward(self, image):
            x = image.to(torch.float32).reshape(1, 256, 32) / 64 - 2
            return self.attention(x, self.references, self.tokens, (96, 96))

    torch.manual_seed(0)
    traced = _simplified(_traced(Attention().eval(), torch.zeros((1, 16, 16, 32), dtype=torch.uint8), ["features"]))
    return onnx.shape_inference.infer_shapes(traced)


def test_bf16_coordinates_without_their_island_miss_the_gate(large_map):
    images = [np.random.default_rng(0).integers(0, 256, (1, 16, 16, 32), dtype=np.uint8)]
    ranges = measure_ranges(large_map, images)
    islands = find_islands(large_map, ranges, "bf16")
    without = [island.node for island in islands if not island.reason.startswith("sampling")]
    reports = []
    for kept in (names(islands), without):
        rounded = run(rounding_from_half(half_from_float(large_map, "bf16", kept)), images)
        reports.append(
            compare(*([x.transpose(0, 2, 1)[..., None] for x in xs] for xs in (run(large_map, images), rounded)))
        )
    assert reports[0].passes(GATES["bf16"])
    assert not reports[1].passes(GATES["bf16"])


def scaled_residual(plain: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with a residual stream SCALE times as large: what enters it is scaled, norms take it back."""
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    makers = {name: node for node in model.graph.node for name in node.output}
    embedded = next(node for node in model.graph.node if node.op_type == "Concat")
    scaled = {name for name in embedded.input if name not in makers}
    scaled |= {entry.name for entry in model.graph.initializer if "patch_embed" in entry.name or "gamma" in entry.name}
    assert len(scaled) == 5  # class token, registers, the patch embedding's weight and bias, LayerScale
    for entry in model.graph.initializer:
        if entry.name in scaled:
            values = numpy_helper.to_array(entry) * np.float32(SCALE)
            entry.CopyFrom(numpy_helper.from_array(values, entry.name))
    return model


def test_planted_outliers_get_their_islands_and_pass_and_fail_without(plain, reference, mini_images):
    model = scaled_residual(plain)
    assert compare(reference, run(model, mini_images)).passes(GATES["fp32"])  # the same function
    ranges = measure_ranges(model, mini_images[:2])
    islands = find_islands(model, ranges, "fp16")
    large = [island for island in islands if island.reason.startswith("range: magnitudes")]
    assert {island.op for island in large} >= {"Conv", "Concat", "Add", "LayerNormalization"}
    assert max(island.max_abs for island in large) > 65504
    without = [island.node for island in islands if island not in large]
    good, bad = (
        compare(reference, run(rounding_from_half(half_from_float(model, "fp16", kept)), mini_images))
        for kept in (names(islands), without)
    )
    assert good.passes(GATES["fp16"])
    assert not bad.finite
    # bf16 has fp32's range and needs none of them.
    typed = half_from_float(model, "bf16", names(find_islands(model, ranges, "bf16")))
    assert compare(reference, run(rounding_from_half(typed), mini_images)).passes(GATES["bf16"])


def with_small_values(plain: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with values of 1e-7 of their size in every fused qkv, which the projection takes back."""
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    readers = {name: node for node in model.graph.node for name in node.input}
    constants = {entry.name: entry for entry in model.graph.initializer}
    changed = 0

    def scale(entry, factor):
        entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry) * np.float32(factor), entry.name))

    for softmax in [node for node in model.graph.node if node.op_type == "Softmax"]:
        product = readers[softmax.output[0]]
        node = product if product.op_type == "MatMul" else None
        while node is not None and not (node.op_type == "MatMul" and node.input[1] in constants):
            node = readers.get(node.output[0])
        makers = {name: maker for maker in model.graph.node for name in maker.output}
        qkv = makers[product.input[1]] if node is not None else None
        while qkv is not None and qkv.op_type != "MatMul":
            qkv = makers[qkv.input[0]]
        if node is None or qkv is None or list(constants[qkv.input[1]].dims) != [128, 384]:
            continue  # the softmax of a deformable attention
        scale(constants[qkv.input[1]], np.repeat([1, 1, 1e-7], 128))
        scale(constants[node.input[1]], 1e7)
        changed += 1
    assert changed == 6
    return model


def test_values_that_vanish_beside_queries_and_keys_stay_in_fp32(plain, reference, mini_images):
    model = with_small_values(plain)
    assert compare(reference, run(model, mini_images)).passes(GATES["fp32"])  # the same function
    ranges = measure_ranges(model, mini_images[:1])
    islands = find_islands(model, ranges, "fp16")
    report = compare(reference, run(rounding_from_half(half_from_float(model, "fp16", names(islands))), mini_images))
    assert report.passes(GATES["fp16"])
    # With the product that makes them in fp16 they are lost.
    shapes = {entry.name: tuple(entry.dims) for entry in model.graph.initializer}
    fused = {node.name for node in model.graph.node if shapes.get((*node.input, "", "")[1]) == (128, 384)}
    assert len(fused) == 6 and fused < set(names(islands))
    without = [name for name in names(islands) if name not in fused]
    bad = compare(reference, run(rounding_from_half(half_from_float(model, "fp16", without)), mini_images))
    assert not bad.passes(GATES["fp16"])


def test_wide_islands_hold_the_attention_scores_and_the_residual_stream(plain, ranges):
    narrow, wide = (find_islands(plain, ranges, "fp16", level) for level in ("measured", "wide"))
    added = Counter(island.op for island in wide if island.node not in names(narrow))
    assert (added["Softmax"], added["MatMul"]) == (6, 6)
    assert added["Add"] >= 24
    assert set(names(narrow)) < set(names(wide))


def chain(operators: list[tuple[str, float]], kind: int) -> onnx.ModelProto:
    """x (fp32) -> Cast -> operators with a constant each -> Cast -> features."""
    constant_type = np.float16 if kind == TensorProto.FLOAT16 else ml_dtypes.bfloat16
    nodes = [helper.make_node("Cast", ["image"], ["t0"], to=kind)]
    constants = []
    for count, (operator, value) in enumerate(operators):
        constants.append(numpy_helper.from_array(np.array([value]).astype(constant_type), f"c{count}"))
        nodes.append(helper.make_node(operator, [f"t{count}", f"c{count}"], [f"t{count + 1}"]))
    nodes.append(helper.make_node("Cast", [f"t{len(operators)}"], ["features"], to=TensorProto.FLOAT))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in ("image", "features")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("kind", HALF.values(), ids=HALF)
def test_rounding_equals_numpys_arithmetic_in_that_type(kind):
    dtype = np.float16 if kind == TensorProto.FLOAT16 else ml_dtypes.bfloat16
    x = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32) * 100
    x[0, :4] = [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8]  # ties go to even
    model = rounding_from_half(chain([("Add", 3.0), ("Mul", 0.7), ("Div", 3.0)], kind))
    (expected,) = [((x.astype(dtype) + dtype(3.0)) * dtype(0.7) / dtype(3.0)).astype(np.float32)]
    assert np.array_equal(run(model, [x])[0], expected)


def test_an_overflow_that_onnxruntime_hides_is_seen_by_rounding():
    model = chain([("Add", 60000.0), ("Mul", 0.5)], TensorProto.FLOAT16)
    x = np.full((1, 64), 60000, np.float32)
    with np.errstate(over="ignore"):
        assert np.isinf(ReferenceEvaluator(model).run(None, {"image": x})[0]).all()
    assert np.isinf(run(rounding_from_half(model), [x])[0]).all()


@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_features_may_be_half_too(plain, ranges, precision, kind):
    typed = half_from_float(plain, precision, names(find_islands(plain, ranges, precision)), output=precision)
    assert typed.graph.output[0].type.tensor_type.elem_type == kind
    assert [entry.name for entry in typed.graph.output] == ["features"]
    onnx.checker.check_model(typed, full_check=True)


def test_the_same_graph_gives_the_same_bytes_and_keeps_its_spec(plain, ranges):
    islands = names(find_islands(plain, ranges, "fp16"))
    first, second = (
        half_from_float(plain, "fp16", order).SerializeToString(deterministic=True)
        for order in (islands, islands[::-1])
    )
    assert first == second
    assert onnx.load_from_string(first).metadata_props == plain.metadata_props


def test_an_island_that_is_not_there_is_refused(plain):
    with pytest.raises(BuildError, match="no node is named nonsense"):
        half_from_float(plain, "fp16", ["nonsense"])


def test_bf16_graphs_are_of_the_opset_that_allows_them(plain, ranges):
    typed = half_from_float(plain, "bf16", names(find_islands(plain, ranges, "bf16")))
    assert typed.opset_import[0].version == 22
    modes = {
        a.s for node in typed.graph.node if node.op_type == "GridSample" for a in node.attribute if a.name == "mode"
    }
    assert modes == {b"linear"}
