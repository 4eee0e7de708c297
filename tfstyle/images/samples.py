"""Where the sample pictures are."""

from __future__ import annotations

import pathlib

SAMPLES = pathlib.Path(__file__).parents[1] / "data"
"""The folder of the sample pictures: ``content``, ``style`` and ``mask``."""
