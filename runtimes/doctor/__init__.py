"""What a machine can run, what not, why, and what to type."""
