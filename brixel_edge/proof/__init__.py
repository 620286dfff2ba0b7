"""How two feature maps are compared, on which photographs, and the proof that travels with a model."""
