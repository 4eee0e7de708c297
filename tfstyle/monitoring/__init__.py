"""Callbacks and reports: what is shown and kept of a run while it goes on."""
