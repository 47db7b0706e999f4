"""What sparsity costs, to choose a target by."""
