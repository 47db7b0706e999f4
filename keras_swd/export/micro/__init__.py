"""Files for TensorFlow Lite Micro that leave zeros out."""
