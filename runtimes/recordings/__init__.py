"""Features -> files, and back to the bit."""
