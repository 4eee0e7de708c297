"""Where the sample pictures are."""

from __future__ import annotations

import pathlib

SAMPLES = pathlib.Path(__file__).parents[1] / "data"
"""The folder with ``content``, ``style`` and ``mask``."""
