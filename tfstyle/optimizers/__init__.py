"""Adam, L-BFGS, and the loop that minimises a loss."""
