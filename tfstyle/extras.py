"""Libraries that come with an extra of tfstyle, imported where they are used."""

from __future__ import annotations

import importlib
import types

from tfstyle.errors import MissingExtraError


def import_extra(module: str, extra: str) -> types.ModuleType:
    """Imports a library that one of tfstyle's extras installs.

    Args:
      module: Its name, such as ``imageio_ffmpeg``.
      extra: The extra that installs it, such as ``video``.

    Returns:
      The module.

    Raises:
      MissingExtraError: If it cannot be imported; the message has the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is not installed ({error}): pip install 'tfstyle[{extra}]'"
        ) from error
