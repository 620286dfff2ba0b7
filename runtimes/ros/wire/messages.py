"""ROS 2's messages as plain dataclasses: the fields that ROS defines, in its order, and one message of ours.

`FIELDS` is a message's definition, from which its CDR form, its DDS type and its text for a bag are made. Sequences of
numbers are NumPy arrays, so that nothing of an image is copied or boxed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

_NS = 10**9


def _zeros(count: int) -> Callable[[], NDArray[np.float64]]:
    return lambda: np.zeros(count)


def _no_bytes() -> NDArray[np.uint8]:
    return np.empty(0, np.uint8)


@dataclass(kw_only=True, eq=False)
class Message:
    """Base of all; knows its name and fields.

    Attributes:
        NAME: `package/msg/Type`.
        FIELDS: type by field: a primitive, `uint8[]`, `float64[9]`, or another message's name.
    """

    NAME: ClassVar[str] = ""
    FIELDS: ClassVar[dict[str, str]] = {}


@dataclass(kw_only=True, eq=False)
class Time(Message):
    """Since 1970, UTC, of the publisher's clock."""

    NAME: ClassVar[str] = "builtin_interfaces/msg/Time"
    FIELDS: ClassVar[dict[str, str]] = {"sec": "int32", "nanosec": "uint32"}
    sec: int = 0
    nanosec: int = 0

    @property
    def ns(self) -> int:
        """In one number [ns]."""
        return self.sec * _NS + self.nanosec

    @classmethod
    def from_ns(cls, ns: int) -> Time:
        """From one number [ns]."""
        return cls(sec=ns // _NS, nanosec=ns % _NS)


@dataclass(kw_only=True, eq=False)
class Header(Message):
    """When and in which frame of coordinates something was seen."""

    NAME: ClassVar[str] = "std_msgs/msg/Header"
    FIELDS: ClassVar[dict[str, str]] = {"stamp": "builtin_interfaces/msg/Time", "frame_id": "string"}
    stamp: Time = field(default_factory=Time)
    frame_id: str = ""


@dataclass(kw_only=True, eq=False)
class Image(Message):
    """Pixels, row by row; `encoding` says what they are."""

    NAME: ClassVar[str] = "sensor_msgs/msg/Image"
    FIELDS: ClassVar[dict[str, str]] = {
        "header": "std_msgs/msg/Header", "height": "uint32", "width": "uint32", "encoding": "string",
        "is_bigendian": "uint8", "step": "uint32", "data": "uint8[]",
    }  # fmt: skip
    header: Header = field(default_factory=Header)
    height: int = 0
    width: int = 0
    encoding: str = ""
    is_bigendian: int = 0
    step: int = 0
    data: NDArray[np.uint8] = field(default_factory=_no_bytes)


@dataclass(kw_only=True, eq=False)
class RegionOfInterest(Message):
    """The part of a sensor that an image shows; all zero for the whole."""

    NAME: ClassVar[str] = "sensor_msgs/msg/RegionOfInterest"
    FIELDS: ClassVar[dict[str, str]] = {
        "x_offset": "uint32", "y_offset": "uint32", "height": "uint32", "width": "uint32", "do_rectify": "bool",
    }  # fmt: skip
    x_offset: int = 0
    y_offset: int = 0
    height: int = 0
    width: int = 0
    do_rectify: bool = False


@dataclass(kw_only=True, eq=False)
class CameraInfo(Message):
    """A camera's calibration: intrinsics K (3 x 3), rectification R (3 x 3), projection P (3 x 4), by rows."""

    NAME: ClassVar[str] = "sensor_msgs/msg/CameraInfo"
    FIELDS: ClassVar[dict[str, str]] = {
        "header": "std_msgs/msg/Header", "height": "uint32", "width": "uint32", "distortion_model": "string",
        "d": "float64[]", "k": "float64[9]", "r": "float64[9]", "p": "float64[12]", "binning_x": "uint32",
        "binning_y": "uint32", "roi": "sensor_msgs/msg/RegionOfInterest",
    }  # fmt: skip
    header: Header = field(default_factory=Header)
    height: int = 0
    width: int = 0
    distortion_model: str = ""
    d: NDArray[np.float64] = field(default_factory=_zeros(0))
    k: NDArray[np.float64] = field(default_factory=_zeros(9))
    r: NDArray[np.float64] = field(default_factory=_zeros(9))
    p: NDArray[np.float64] = field(default_factory=_zeros(12))
    binning_x: int = 0
    binning_y: int = 0
    roi: RegionOfInterest = field(default_factory=RegionOfInterest)


@dataclass(kw_only=True, eq=False)
class String(Message):
    """A line of text."""

    NAME: ClassVar[str] = "std_msgs/msg/String"
    FIELDS: ClassVar[dict[str, str]] = {"data": "string"}
    data: str = ""


@dataclass(kw_only=True, eq=False)
class FeatureMapMessage(Message):
    """A feature map: (height, width, channels) numbers of `dtype`, channels innermost, little-endian.

    Cell (row, column) covers the frame's pixels from `offset_px + (row, column) * stride_px` on, (y, x), counted from
    the frame's top left edge. Maps with equal `model` can be compared.
    """

    NAME: ClassVar[str] = "brixel_msgs/msg/FeatureMap"
    FIELDS: ClassVar[dict[str, str]] = {
        "header": "std_msgs/msg/Header", "model": "string", "dtype": "string", "height": "uint32", "width": "uint32",
        "channels": "uint32", "frame_height": "uint32", "frame_width": "uint32", "stride_px": "float64[2]",
        "offset_px": "float64[2]", "data": "uint8[]",
    }  # fmt: skip
    header: Header = field(default_factory=Header)
    model: str = ""
    dtype: str = "float16"
    height: int = 0
    width: int = 0
    channels: int = 0
    frame_height: int = 0
    frame_width: int = 0
    stride_px: NDArray[np.float64] = field(default_factory=_zeros(2))
    offset_px: NDArray[np.float64] = field(default_factory=_zeros(2))
    data: NDArray[np.uint8] = field(default_factory=_no_bytes)

    @property
    def values(self) -> NDArray[np.floating]:
        """(height, width, channels)."""
        return self.data.view(np.dtype(self.dtype).newbyteorder("<")).reshape(self.height, self.width, self.channels)


MESSAGES: dict[str, type[Message]] = {
    message.NAME: message for message in (Time, Header, Image, RegionOfInterest, CameraInfo, String, FeatureMapMessage)
}


def definition(message: type[Message]) -> str:
    """The text of a `.msg` file."""
    lines = [f"{kind.replace('/msg/', '/')} {name}" for name, kind in message.FIELDS.items()]
    return "\n".join(lines) + "\n"
