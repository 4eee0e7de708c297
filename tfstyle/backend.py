"""Checks that Keras runs on TensorFlow, before Keras is imported."""

from __future__ import annotations

import os

from tfstyle.errors import UsageError


def check_backend() -> None:
    """Refuses another Keras backend.

    Raises:
      UsageError: If ``KERAS_BACKEND`` is set to anything but ``tensorflow``.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise UsageError(
            f"KERAS_BACKEND={backend}: tfstyle runs on TensorFlow; unset it or set "
            "KERAS_BACKEND=tensorflow"
        )
