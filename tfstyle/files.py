"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator

from tfstyle.errors import TfstyleError


@contextlib.contextmanager
def beside(target: pathlib.Path, suffix: str = ".tmp") -> Iterator[pathlib.Path]:
    """A temporary file beside another that takes its place when all went well.

    Raises:
      OSError: It cannot take its place.
    """
    # Not `tempfile`, whose files only their owner may read.
    temporary = target.with_name(f".tfstyle-{secrets.token_hex(8)}{suffix}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        # A read-only file system says so of a file that is not there, too.
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """``beside`` with its errors as those that users are told.

    Raises:
      TfstyleError: The file could not be written.
    """
    target = pathlib.Path(path)
    try:
        # The suffix tells Keras and matplotlib what to write.
        with beside(target, target.suffix) as temporary:
            yield temporary
    except TfstyleError:  # tells its own story
        raise
    except (OSError, ValueError) as error:
        raise TfstyleError(f"{target}: could not be written: {error}") from error
