"""Features -> pictures, windows and recordings."""
