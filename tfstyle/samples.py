"""Where tfstyle's sample pictures are."""

from __future__ import annotations

import pathlib

_INSTALLED = pathlib.Path(__file__).parent / "data"
_CHECKOUT = pathlib.Path(__file__).parents[1] / "data"

SAMPLES = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
"""The folder with ``content``, ``style`` and ``mask``."""
