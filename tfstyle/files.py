"""Paths in messages, files that are written whole or not at all, and their digests."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

from tfstyle.errors import TfstyleError, UsageError

PathLike = str | os.PathLike[str]


def as_path(value: Any, argument: str) -> pathlib.Path:
    """Checks that an argument is a path.

    Raises:
      UsageError: If it is neither text nor a path.
    """
    try:
        return pathlib.Path(value)
    except TypeError:
        raise UsageError(
            f"{argument} is of type {type(value).__name__}; give a path"
        ) from None


def shown(path: str | os.PathLike[str]) -> str:
    """A path as text for a message of one line; with escapes if it cannot be shown."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def make_folder(path: str | os.PathLike[str], argument: str = "") -> pathlib.Path:
    """Makes a folder, with those that it is in, if there is none.

    Args:
      path: The folder.
      argument: What stands before the path in the message, such as ``--output=``.

    Returns:
      The path.

    Raises:
      UsageError: If it cannot be made, or not written to.
    """
    path = as_path(path, argument.rstrip("=") or "folder")
    try:
        os.makedirs(path, exist_ok=True)  # noqa: PTH103
    except OSError as error:
        raise UsageError(
            f"{argument}{path}: the folder cannot be made ({error.strerror}); choose "
            "another"
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(
            f"{argument}{path}: you may not write to this folder; choose another or "
            "change its permissions"
        )
    return path


@contextlib.contextmanager
def beside(
    target: pathlib.Path, suffix: str = ".tmp", folder: pathlib.Path | None = None
) -> Iterator[pathlib.Path]:
    """Gives a path beside ``target`` that takes its place if the block ends well.

    Args:
      target: The file to replace.
      suffix: Extension of the temporary file.
      folder: Where the temporary file is, on the same disk; None for beside the target.

    Yields:
      The path to write to.

    Raises:
      OSError: If the file cannot be renamed.
    """
    # `tempfile` would make files that only their owner may read.
    name = f".tfstyle-{secrets.token_hex(8)}{suffix}"
    temporary = (folder or target.parent) / name
    try:
        yield temporary
        temporary.replace(target)
    finally:
        # A read-only file system raises even for a file that does not exist.
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Like ``beside``, with errors that a user can read.

    Yields:
      The path to write to, with the same extension.

    Raises:
      TfstyleError: If the file cannot be written.
    """
    target = pathlib.Path(path)
    try:
        # Keras and matplotlib choose the format by the extension.
        with beside(target, target.suffix) as temporary:
            yield temporary
    except TfstyleError:
        raise
    except (OSError, ValueError) as error:
        raise TfstyleError(f"{target}: could not be written: {error}") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file of any size, in hexadecimal.

    Raises:
      UsageError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with pathlib.Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
