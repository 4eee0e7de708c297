"""The pictures of a folder."""

from __future__ import annotations

import os
import pathlib

from tfstyle.errors import UsageError
from tfstyle.images.decoders import SAVE_FORMATS

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def picture_files(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The picture files of a folder and of the folders in it, sorted.

    Args:
      folder: The folder.

    Returns:
      Paths of the files whose extension is a picture's.

    Raises:
      UsageError: If the folder does not exist, or has no picture in it.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise UsageError(f"{folder}: no such folder")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise UsageError(
            f"{folder}: there is no picture in this folder ({', '.join(SUFFIXES)})"
        )
    return files


def saved_as(name: str) -> str:
    """The name of a picture's result.

    Args:
      name: The picture's name, or a path that ends with it.

    Returns:
      The same name if its format can be written; otherwise with the extension .png.
    """
    stem, extension = os.path.splitext(name)  # noqa: PTH122
    return name if extension.lower() in SAVE_FORMATS else f"{stem}.png"
