"""A page in a browser instead of a window: frame and map, clicks, figures and health, by the standard library alone."""
