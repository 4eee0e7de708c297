"""Films: reading, writing, motion, and both ways to stylize them."""
