"""Frames -> features, continuously."""
