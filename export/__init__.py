"""Build machine: the fused model, its graph, engines, and the proof that they equal PyTorch; torch is allowed."""

if __name__ != "brixel_edge.export":
    raise ImportError("import brixel_edge.export, not export (in a clone, run pip install -e . once)")
