"""Pixels: resizing, fitting a frame to the graph, colours of features."""
