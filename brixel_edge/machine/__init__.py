"""What the machine has: memory, CUDA, TensorRT, files, a terminal."""
