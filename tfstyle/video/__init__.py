"""Films: reading, writing, motion, both ways to stylize them, and films of a run."""
