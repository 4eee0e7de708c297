"""The engine that optimises pictures."""
