"""What callers do with the progress of a run."""
