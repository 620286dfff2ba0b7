"""PyTorch -> ONNX in fp32, and what is asserted of the graph."""
