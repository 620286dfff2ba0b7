"""Integer scales: calibration frames, ranges, Q/DQ insertion, sensitivity; numpy and onnx, never torch."""

if __name__ != "brixel_edge.calib":
    raise ImportError("import brixel_edge.calib, not calib (in a clone, run pip install -e . once)")
