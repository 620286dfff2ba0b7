"""ROS 2's definition of an image, written down anew and read by Cyclone DDS's own code, none of ours.

Without postponed annotations, which Cyclone DDS looks up in installed modules.
"""

from dataclasses import dataclass

from cyclonedds import idl
from cyclonedds.idl import types


@dataclass
class Time_(idl.IdlStruct, typename="builtin_interfaces.msg.dds_.Time_"):
    sec: types.int32
    nanosec: types.uint32


@dataclass
class Header_(idl.IdlStruct, typename="std_msgs.msg.dds_.Header_"):
    stamp: Time_
    frame_id: str


@dataclass
class Image_(idl.IdlStruct, typename="sensor_msgs.msg.dds_.Image_"):
    header: Header_
    height: types.uint32
    width: types.uint32
    encoding: str
    is_bigendian: types.uint8
    step: types.uint32
    data: types.sequence[types.uint8]
