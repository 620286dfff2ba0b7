"""What the exported graph looks like where it matters to engines."""

from collections import Counter

import onnx


def test_a_rotation_is_five_operators_and_all_of_them_share_one_pair_of_tables(mini_graph):
    """Swapped halves, two products, one sum: 4 x 6 patches and 5 prefix tokens, heads of 64, two rotations a block."""
    graph = onnx.load(mini_graph("gridsample")).graph
    makers = {name: node for node in graph.node for name in node.output}
    tables = {tensor.name for tensor in graph.initializer if tuple(tensor.dims) == (29, 64)}
    sums = [
        node
        for node in graph.node
        if node.op_type == "Add" and all(tables & set(makers[name].input) for name in node.input if name in makers)
    ]
    assert len(tables) == 2 and len(sums) == 12
    for node in sums:
        products = [makers[name] for name in node.input]
        others = [makers[name] for product in products for name in product.input if name not in tables]
        assert [product.op_type for product in products] == ["Mul", "Mul"]
        (swap,) = (other for other in others if other.op_type == "Concat")
        assert {makers[name].op_type for name in swap.input} == {"Split"}
    assert "Neg" not in Counter(node.op_type for node in graph.node)
