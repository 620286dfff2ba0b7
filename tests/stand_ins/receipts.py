"""A receipt for tests: what an export of the fp32 graph would say, with the sections that are given."""

from brixel_edge.model.receipt import Receipt
from brixel_edge.model.receipt_sections import Lowering, Requested, Weights
from brixel_edge.model.spec import ModelSpec


def receipt_of(spec: ModelSpec, **sections) -> Receipt:
    made = Lowering(precision="fp32", sampler="gridsample", islands=None)
    requested = Requested(engine="onnx", precision="fp32", samplers=("gridsample",), made=made, is_first_choice=True)
    return Receipt(spec=spec, requested=requested, weights=Weights(backbone=None, adapter=None), **sections)
