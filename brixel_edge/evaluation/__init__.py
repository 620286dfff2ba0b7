"""The paper's evaluation: light probes on frozen features, and their scores at the labels' own size."""
