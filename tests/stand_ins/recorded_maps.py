"""Feature maps as a recording holds them, and a file of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import tiny_model

from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.model.features import FeatureMap
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.runtimes.recordings.facts import RecordedModel
from brixel_edge.runtimes.recordings.mcap_file import McapFile

SPACE = FeatureSpace(model="tiny.onnx", dim=tiny_model.DIM, digests=("graph:0123456789",))
MODEL = RecordedModel(feature_space=SPACE, spec=tiny_model.spec(), engine="tiny.onnx", precision="fp32", backend="ort")


def features_of(number, grid=(8, 12), dim=4, dtype=np.float32, **more):
    generator = np.random.default_rng(number)
    facts = {
        "stride_px": (4.0, 4.25), "offset_px": (-1.5, 0.0), "frame_size": (32, 51), "t_capture_s": 77.0 + number / 3,
        "frame_index": 5 + number, "is_after_gap": number % 2 == 1, "t_utc_s": 1.7e9 + number / 3,
        "t_stream_s": None if number % 2 else number / 7, "source": "camera 0", "feature_space": SPACE,
        "frame_bgr": generator.integers(0, 256, (32, 51, 3), dtype=np.uint8),
    }  # fmt: skip
    return FeatureMap(values=generator.normal(size=(*grid, dim)).astype(dtype), **(facts | more))


HEAD = HeadSpec(
    kind="segmentation", outputs=3, classes=("sky", "road", "Tür"), colours=((0, 0, 255), (9, 9, 9), (1, 2, 3))
)
MODEL_WITH_HEAD = dataclasses.replace(MODEL, spec=dataclasses.replace(MODEL.spec, head=HEAD))


def answered(number, **more):
    """A map with a head's answer."""
    answer = np.random.default_rng(100 + number).normal(size=(8, 12, 3)).astype(np.float32)
    return features_of(number, answer=answer, head=HEAD, **more)


def same(one, other, but=("frame_bgr",)):
    """Whether two maps are the same to the bit, in every field."""
    for field in dataclasses.fields(FeatureMap):
        if field.name in but:
            continue
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert a.tobytes() == b.tobytes()
        else:
            assert a == b, field.name
    return True


def write(path, maps, precision=None, model=MODEL):
    recorder = McapFile(path, model, precision)
    for features in maps:
        recorder.write(features, None)
    recorder.close()
    return recorder
