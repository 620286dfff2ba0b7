"""Which values tensors take: observed ranges, smoothing, scales."""
