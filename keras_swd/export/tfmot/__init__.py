"""The way to TensorFlow Model Optimization and back."""
