"""INT8: which frames to calibrate on, which ranges they give, which nodes take integers, and the proof that it is right.

`quantize.quantize` runs everything; the other modules are its stages and can be used alone. Knows ONNX graphs, never
torch and never the exporter.
"""

if __name__ != "brixel_edge.calib":
    raise ImportError("import brixel_edge.calib, not calib (in a clone, run pip install -e . once)")
