"""brixel-nano: a small DINOv3-shaped backbone, trained from photographs without labels."""
