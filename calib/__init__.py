"""INT8: which frames to calibrate on, their ranges, which nodes take integers, and the proof.

`quantize.quantize` runs everything; the other modules are its stages and can be used alone. Knows ONNX graphs, never
torch and never the exporter.
"""

if __name__ != "brixel_edge.calib":
    raise ImportError("import brixel_edge.calib, not calib (in a clone, run pip install -e . once)")
