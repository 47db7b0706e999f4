"""What is removed: the units of kernels, and of coupled channels."""
