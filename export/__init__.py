"""Build machine: the fused model, its ONNX graph, engines, and the proof that they equal PyTorch; torch is allowed here."""

if __name__ != "brixel_edge.export":
    raise ImportError("import brixel_edge.export, not export (in a clone, run pip install -e . once)")
