"""The distillation: photographs in, adapter weights out."""
