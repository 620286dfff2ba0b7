"""Graph -> TensorRT engine."""
