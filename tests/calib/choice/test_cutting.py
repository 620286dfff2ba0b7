"""Two parts of a graph compute what the whole does."""

import numpy as np
import onnxruntime as ort
from calib_vit import ToyVit, toy_frames

from brixel_edge.calib.choice.cutting import first_part, live_tensors, second_part, size_bytes
from brixel_edge.calib.graph import Graph


def test_two_parts_compute_what_the_whole_does():
    toy = Graph(ToyVit().graph())
    start = next(position for position, node in enumerate(toy.nodes) if node.output[0] == "2.qkv.product")
    live = live_tensors(toy, start)
    assert {"2.norm1", "block2"} <= set(live)
    frame = toy_frames(1)[0][None]
    whole = ort.InferenceSession(toy.serialized()).run(["features", "dense"], {"image": frame})
    session = ort.InferenceSession(first_part(toy, start, live).serialized())
    values = dict(
        zip([entry.name for entry in session.get_outputs()], session.run(None, {"image": frame}), strict=True)
    )
    feed = {name: {**values, "image": frame}[name] for name in live}
    parts = ort.InferenceSession(second_part(toy, start, live).serialized()).run(["features", "dense"], feed)
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(whole, parts, strict=True))
    assert size_bytes(toy, ["2.norm1"]) == 54 * 128 * 4
