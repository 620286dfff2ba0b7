"""`import tensorrt` in a process whose environment names a world."""

import sys

import trt_stand_in

WORLD = trt_stand_in.world_of_environment()
sys.modules[__name__] = WORLD.tensorrt
sys.modules["acted_world"] = WORLD
