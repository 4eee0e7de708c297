"""Texts in picture files: how they are stored, and how they are read again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from tfstyle.errors import UsageError
from tfstyle.files import as_path, shown
from tfstyle.images.decoders import open_file, open_picture, read_exif


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads the texts that ``save_image`` put in a file.

    Args:
      path: A picture file.

    Returns:
      Texts by key; empty if there is none, or none that ``save_image`` writes.

    Raises:
      UsageError: If there is no such file.
      ImageError: If it is empty, damaged, or of another format.
    """
    path = as_path(path, "path")
    name = shown(path)
    with open_file(path) as file, open_picture(file, name) as picture:
        if isinstance(picture, PngImageFile):
            # Those before the pixels, which are not decoded.
            info = picture.info.items()
            return {str(k): str(text) for k, text in info if isinstance(text, str)}
        try:
            exif = read_exif(picture)
            texts = json.loads(exif.get(ExifTags.Base.ImageDescription, "{}"))
        except Exception:  # anything may stand there, from any program
            return {}
        return texts if isinstance(texts, dict) else {}


def save_options(image_format: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """How to save texts with a picture.

    Args:
      image_format: Pillow's name of the format.
      metadata: Texts by key.

    Returns:
      Keywords of ``PIL.Image.Image.save``.
    """
    if image_format == "PNG":
        texts = PngInfo()
        for key, value in metadata.items():
            # File names may hold what is no text; these are the escapes of JSON, too.
            texts.add_text(key, value.encode("utf-8", "backslashreplace").decode())
        return {"pnginfo": texts}
    if not metadata:
        return {}
    exif = Image.Exif()
    # EXIF texts are ASCII, which JSON's escapes keep to.
    exif[ExifTags.Base.ImageDescription] = json.dumps(dict(metadata))
    return {"exif": exif}


def check_metadata(metadata: Any) -> None:
    """Refuses metadata that are not texts by key.

    Args:
      metadata: What was given; None is allowed.

    Raises:
      UsageError: If it is not a mapping, or a key or a value is not text.
    """
    if metadata is None:
        return
    if not isinstance(metadata, Mapping) or not all(
        isinstance(text, str) for item in metadata.items() for text in item
    ):
        raise UsageError("metadata is not a mapping from texts to texts")
