"""Latency and memory of every engine, side by side."""
