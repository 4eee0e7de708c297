"""The pictures of a folder, and the names of their results."""

from __future__ import annotations

import os
import pathlib

from tfstyle.errors import ImageError, UsageError
from tfstyle.files import as_path, shown
from tfstyle.images.loading import load_image
from tfstyle.images.saving import SAVE_FORMATS

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def picture_files(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Finds the pictures of a folder and of the folders in it.

    Returns:
      Paths of all files with an extension of a picture, sorted.

    Raises:
      UsageError: If the folder does not exist, or has no picture in it.
    """
    root = as_path(folder, "folder")
    if not root.is_dir():
        problem = "is a file, not a folder" if root.is_file() else "no such folder"
        raise UsageError(f"{shown(root)}: {problem}")
    files = sorted(
        path
        for path in root.rglob("*")
        # A broken link is named as such when it is read; a folder is no picture.
        if path.suffix.lower() in SUFFIXES and not path.is_dir()
    )
    if not files:
        raise UsageError(
            f"{shown(root)}: there is no picture in this folder "
            f"({', '.join(sorted(SUFFIXES))})"
        )
    return files


def is_readable(file: str | os.PathLike[str]) -> bool:
    """Whether a file is a picture that can be read to its end."""
    try:
        load_image(file)
    except (ImageError, UsageError):
        return False
    return True


def saved_as(name: str) -> str:
    """Names the result of a picture.

    Args:
      name: The picture's name, or a path that ends with it.

    Returns:
      The same name if its format can be written; otherwise the name with the extension
      .png in place of its own.
    """
    stem, extension = os.path.splitext(name)  # noqa: PTH122
    return name if extension.lower() in SAVE_FORMATS else f"{stem}.png"
