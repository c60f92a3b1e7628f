"""Networks, losses, training, and the bundle that a model is. TensorFlow is imported inside functions only."""
