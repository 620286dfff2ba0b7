"""What a recording holds of a head's answer to a frame: a message of its own, just before that of the features.

What the numbers mean, classes with their names and colours included, is in the model's spec, which the recording tells
once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.recordings.cdr import TIME, Field, message_from_values, values_from_message
from brixel_edge.runtimes.recordings.messages import (
    RecordedPrecision,
    array_from_bytes,
    array_to_keep,
    bytes_of_array,
    name_of_dtype,
    timestamp,
)

ANSWER_TYPE = "brixel_msgs/msg/HeadAnswer"
ANSWER_FIELDS = (
    Field(TIME, "timestamp", "when the frame was taken, UTC"),
    Field("string", "source", "of the frame, without passwords; empty where there is none"),
    Field("uint64", "sequence", "of the frame, as in its features"),
    Field("string", "kind", "segmentation: logits; depth: log of metres; pca: components; prototypes: cosines"),
    Field("string", "dtype", "fp16 or fp32, little-endian"),
    Field("uint32[3]", "shape", "rows, columns, outputs"),
    Field("uint8[]", "data", "values, row by row, the outputs of a cell beside each other"),
)


def answer_message(features: FeatureMap, precision: RecordedPrecision | None) -> bytes | None:
    """A head's answer to a frame; None without one.

    Raises:
        BundleError: a value is too large for fp16.
    """
    if features.answer is None or features.head is None:
        return None
    kept = array_to_keep(features.answer, precision)
    values = {
        "timestamp": timestamp(features),
        "source": features.source or "",
        "sequence": features.frame_index,
        "kind": features.head.kind,
        "dtype": name_of_dtype(kept),
        "shape": kept.shape,
        "data": bytes_of_array(kept),
    }
    return message_from_values(ANSWER_FIELDS, values)


def answer_from_message(message: bytes) -> NDArray[np.float32]:
    """(h, w, K).

    Raises:
        ValueError: not such a message.
    """
    told = values_from_message(ANSWER_FIELDS, message)
    return array_from_bytes(told["data"], told["dtype"], told["shape"]).astype(np.float32)
