"""Feed-forward networks: one pass a picture."""
