"""Libraries that come with an extra of tfstyle, imported where they are used."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import types
from collections.abc import Iterator

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


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Sends what native code writes to standard error nowhere, for a while."""
    # Some libraries write before their log level counts, so the file itself is moved.
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
