"""`import cuda.bindings.runtime` in a process whose environment names a world."""

import importlib
import sys

importlib.import_module("tensorrt")
sys.modules[__name__] = sys.modules["acted_world"].cudart
