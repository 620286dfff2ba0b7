"""The device: one module a backend, cameras and the stream; numpy and that backend only, never torch."""

if __name__ != "brixel_edge.runtimes":
    raise ImportError("import brixel_edge.runtimes, not runtimes (in a clone, run pip install -e . once)")
