"""Adversarial masking for self-supervised learning in Keras 3 / TensorFlow."""
