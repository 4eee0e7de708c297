"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator

from tfstyle.errors import TfstyleError


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A temporary file beside ``path`` that takes its place when all went well.

    Raises:
      TfstyleError: The file could not be written.
    """
    target = pathlib.Path(path)
    # The suffix tells Keras and matplotlib what to write.
    name = f".tfstyle-{secrets.token_hex(8)}{target.suffix}"
    temporary = target.with_name(name)
    try:
        yield temporary
        temporary.replace(target)
    except TfstyleError:  # tells its own story
        raise
    except (OSError, ValueError) as error:
        raise TfstyleError(f"{target}: could not be written: {error}") from error
    finally:
        # A read-only file system says so of a file that is not there, too.
        with contextlib.suppress(OSError):
            temporary.unlink()
