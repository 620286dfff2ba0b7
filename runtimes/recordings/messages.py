"""What a recording holds of each frame: its features and times, and its picture; as messages of ROS 2.

Foxglove shows the pictures, for their message is one that it knows; the features' message is ours and is described in
every file by the schema below.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BundleError
from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.model.features import FeatureMap
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.runtimes.recordings.cdr import TIME, Field, message_from_values, values_from_message

RecordedPrecision = Literal["fp16", "fp32"]
_DTYPES = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}
_JPEG_QUALITY = 90

PICTURE_TYPE, FEATURES_TYPE = "foxglove_msgs/msg/CompressedImage", "brixel_msgs/msg/FeatureMap"
PICTURE_FIELDS = (
    Field(TIME, "timestamp", "when the frame was taken, UTC"),
    Field("string", "frame_id", "the source"),
    Field("uint8[]", "data", "the frame as JPEG"),
    Field("string", "format", "jpeg"),
)
FEATURES_FIELDS = (
    Field(TIME, "timestamp", "when the frame was taken, UTC"),
    Field("string", "source", "of the frame, without passwords; empty where there is none"),
    Field("uint64", "sequence", "counts the frames that the source gave, dropped ones included"),
    Field("float64", "t_capture_s", "when the frame was taken, on the monotonic clock of the recording machine [s]"),
    Field("float64", "t_utc_s", "the same since 1970, UTC [s]; NaN where nobody knows"),
    Field("float64", "t_stream_s", "the stream's own time stamp [s]; NaN where it has none"),
    Field("bool", "is_after_gap", "the source was lost or silent just before"),
    Field("uint32[2]", "frame_size", "height and width of the frame [px]"),
    Field("float64[2]", "stride_px", "(y, x) pixels of the frame between neighbouring cells"),
    Field("float64[2]", "offset_px", "(y, x) of the top left edge of cell (0, 0) [px of the frame]"),
    Field("string", "spec_digest", "sha256 of the model's spec"),
    Field("string", "dtype", "fp16 or fp32, little-endian"),
    Field("uint32[3]", "shape", "rows, columns, channels"),
    Field("uint8[]", "data", "values, row by row, the channels of a cell beside each other"),
)
_TIME_FIELDS = "int32 sec\nuint32 nanosec\n"


def schema_from_fields(fields: tuple[Field, ...]) -> bytes:
    """The message's definition as a .msg file of ROS 2, with what it refers to."""
    own = "".join(f"# {field.meaning}\n{field.kind} {field.name}\n" for field in fields)
    return f"{own}{'=' * 80}\nMSG: {TIME}\n{_TIME_FIELDS}".encode()


def utc_ns(features: FeatureMap) -> int:
    """When the frame was taken, as recordings count [ns]; 0 where nobody knows."""
    return round(1e9 * (features.t_utc_s or 0.0))


def timestamp(features: FeatureMap) -> tuple[int, int]:
    """The same as seconds and nanoseconds."""
    return divmod(utc_ns(features), 10**9)


def array_to_keep(values: NDArray[np.floating], precision: RecordedPrecision | None) -> NDArray[Any]:
    """(h, w, D), little-endian and contiguous.

    Args:
        values: features of a frame, or a head's answer to it.
        precision: to keep; None keeps that in which they were computed.

    Raises:
        BundleError: a value is too large for fp16.
    """
    dtype = _DTYPES[precision] if precision else values.dtype.newbyteorder("<")
    try:
        with np.errstate(over="raise"):
            return np.ascontiguousarray(values, dtype)
    except FloatingPointError as error:
        raise BundleError(
            "features do not fit into fp16, whose largest number is 65504; keep them with --save-precision fp32"
        ) from error


def name_of_dtype(kept: NDArray[Any]) -> str:
    """Of what `array_to_keep` gave."""
    return "fp16" if kept.dtype.itemsize == 2 else "fp32"


def bytes_of_array(kept: NDArray[Any]) -> NDArray[np.uint8]:
    """Its memory, which may be none."""
    return kept.reshape(-1).view(np.uint8)


def array_from_bytes(data: Any, dtype: str, shape: tuple[int, ...]) -> NDArray[np.floating]:
    """A copy, which is the caller's.

    Raises:
        ValueError: no such type, or not as many values.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"features of type {dtype!r}")
    kept = _DTYPES[dtype]
    # numpy makes no array of an empty buffer.
    values = np.frombuffer(data, kept) if len(data) else np.empty(0, kept)
    return values.reshape(shape).astype(kept.newbyteorder("="))


def jpeg_from_frame(frame_bgr: NDArray[np.uint8]) -> bytes:
    """The frame as a JPEG of quality 90."""
    done, data = cv2.imencode(".jpg", frame_bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise BundleError(f"a frame of {frame_bgr.shape[1]}x{frame_bgr.shape[0]} cannot be kept as JPEG")
    return data.tobytes()


def picture_message(features: FeatureMap, frame_bgr: NDArray[np.uint8]) -> bytes:
    """The frame's picture."""
    values = {
        "timestamp": timestamp(features),
        "frame_id": features.source or "",
        "data": jpeg_from_frame(frame_bgr),
        "format": "jpeg",
    }
    return message_from_values(PICTURE_FIELDS, values)


def features_message(features: FeatureMap, spec_digest: str, precision: RecordedPrecision | None) -> bytes:
    """The frame's features and times.

    Raises:
        BundleError: a value is too large for fp16.
    """
    kept = array_to_keep(features.values, precision)
    values = {
        "timestamp": timestamp(features),
        "source": features.source or "",
        "sequence": features.frame_index,
        "t_capture_s": features.t_capture_s,
        "t_utc_s": math.nan if features.t_utc_s is None else features.t_utc_s,
        "t_stream_s": math.nan if features.t_stream_s is None else features.t_stream_s,
        "is_after_gap": features.is_after_gap,
        "frame_size": features.frame_size,
        "stride_px": features.stride_px,
        "offset_px": features.offset_px,
        "spec_digest": spec_digest,
        "dtype": name_of_dtype(kept),
        "shape": kept.shape,
        "data": bytes_of_array(kept),
    }
    return message_from_values(FEATURES_FIELDS, values)


def features_from_message(
    message: bytes,
    picture: bytes | None,
    space: FeatureSpace | None,
    answer: NDArray[np.float32] | None = None,
    head: HeadSpec | None = None,
) -> tuple[FeatureMap, str]:
    """The features with their frame, and the digest of the spec that they are of.

    Args:
        message: of `features_message`.
        picture: of `picture_message`, of the same frame; None where there is none.
        space: of the features, which the recording tells once.
        answer: (h, w, K), of a head; None where there is none.
        head: what the answer is.

    Raises:
        ValueError: not such a message.
    """
    told = values_from_message(FEATURES_FIELDS, message)
    features = FeatureMap(
        values=array_from_bytes(told["data"], told["dtype"], told["shape"]),
        stride_px=told["stride_px"],
        offset_px=told["offset_px"],
        frame_size=told["frame_size"],
        t_capture_s=told["t_capture_s"],
        frame_index=told["sequence"],
        is_after_gap=told["is_after_gap"],
        t_utc_s=_number(told["t_utc_s"]),
        t_stream_s=_number(told["t_stream_s"]),
        source=told["source"] or None,
        feature_space=space,
        frame_bgr=None if picture is None else _frame(picture),
        answer=answer,
        head=None if answer is None else head,
    )
    return features, told["spec_digest"]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _frame(picture: bytes) -> NDArray[np.uint8]:
    data = values_from_message(PICTURE_FIELDS, picture)["data"]
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError("a picture that is no JPEG")
    return np.asarray(pixels, np.uint8)
