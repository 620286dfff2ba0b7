"""How integers are written for each backend, and which kernels really ran."""
