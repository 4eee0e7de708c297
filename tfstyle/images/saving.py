"""Writing pictures: the only place where values are rounded to 8 bits for a file."""

from __future__ import annotations

import io
import operator
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from tfstyle.errors import ImageError, UsageError, one_line
from tfstyle.files import as_path, beside, shown
from tfstyle.images.metadata import check_metadata, save_options
from tfstyle.images.resizing import as_array

SAVE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

_ROWS_AT_ONCE = 256  # are rounded, so that no second copy of a large picture is made


def save_image(
    image: npt.ArrayLike,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    quality: int = 95,
) -> None:
    """Writes a picture as an 8-bit file whose format follows from the extension.

    Values are clipped to [0, 1] and rounded to the nearest of the 256 levels. The file
    is written beside its place and then moved there, so that a failure leaves what was
    there before.

    Args:
      image: Array or tensor ``[1, H, W, 3]`` or ``[H, W, 3]``, float, nominally in
        [0, 1].
      path: Where to: .png, .jpg, .jpeg or .webp, in a folder that exists.
      metadata: Texts to put in the file. In PNG each is a text chunk under its key; in
        JPEG and WebP they are one JSON object in EXIF's ImageDescription.
      quality: Of JPEG and WebP, from 1 to 100.

    Raises:
      UsageError: If the path cannot be written to (see ``check_writable``), or an
        argument has another type, shape or range.
      ImageError: If the image holds NaN or infinity, or writing failed.
    """
    check_writable(path)
    path = Path(path)
    name = shown(path)
    target = _link_target(path)
    check_metadata(metadata)
    picture = _to_picture(image, quality, name)
    try:
        with beside(target) as temporary, temporary.open("xb") as file:
            _encode(picture, file, path.suffix, metadata, quality)
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(
            f"{name}: could not be written ({one_line(error)}) and is as it was "
            "before; check the free space and the folder, or save a .png elsewhere"
        ) from error


def encode_image(
    image: npt.ArrayLike,
    extension: str,
    *,
    metadata: Mapping[str, str] | None = None,
    quality: int = 95,
) -> bytes:
    """The bytes of the file that ``save_image`` would write.

    Args:
      image: Same as in ``save_image``.
      extension: .png, .jpg, .jpeg or .webp.
      metadata: Same as in ``save_image``.
      quality: Same as in ``save_image``.

    Returns:
      The file's content.

    Raises:
      UsageError: If an argument has another type, shape or range.
      ImageError: If the image holds NaN or infinity, or the format cannot hold it.
    """
    if not isinstance(extension, str) or extension.lower() not in SAVE_FORMATS:
        raise UsageError(
            f"the extension {extension!r} is not supported; use one of "
            f"{', '.join(SAVE_FORMATS)}"
        )
    check_metadata(metadata)
    picture, file = _to_picture(image, quality, "image"), io.BytesIO()
    try:
        _encode(picture, file, extension, metadata, quality)
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(
            f"image: could not be encoded as {extension} ({one_line(error)}); "
            "make it a .png"
        ) from error
    return file.getvalue()


def check_writable(
    path: str | os.PathLike[str],
    *,
    extensions: Collection[str] = tuple(SAVE_FORMATS),
) -> None:
    """Refuses, before any work is done, a path that a file could not be written to.

    Args:
      path: Where a file is to be written.
      extensions: Those it may have, in lower case with the dot; empty allows any.

    Raises:
      UsageError: If the extension is another; if the folder does not exist, is no
        folder or may not be written to; or if the path is a folder, a device, or a
        file that may not be written to.
    """
    path = as_path(path, "path")
    name = shown(path)
    if extensions and path.suffix.lower() not in extensions:
        *others, last = extensions
        choice = f"{', '.join(others)} or {last}" if others else last
        problem = (
            f"the extension {path.suffix} is not supported"
            if path.suffix
            else "the name has no extension"
        )
        raise UsageError(f"{name}: {problem}; use {choice}")
    path = _link_target(path)
    _check_folder(path.parent, name)
    mode = _file_mode(path)
    if mode is None:
        return
    if stat.S_ISDIR(mode):
        raise UsageError(f"{name}: is a folder; add a file name")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{name}: is not a regular file; choose another name")
    if not os.access(path, os.W_OK):
        raise UsageError(
            f"{name}: exists and may not be changed; "
            "choose another name or change its permissions"
        )


def _check_folder(folder: Path, name: str) -> None:
    mode = _file_mode(folder)
    if mode is None:
        raise UsageError(
            f"{name}: the folder {shown(folder)} does not exist; "
            "create it first or choose another"
        )
    if not stat.S_ISDIR(mode):
        raise UsageError(
            f"{name}: {shown(folder)} is a file, not a folder; choose another folder"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"{name}: you may not write to the folder {shown(folder)}; "
            "choose another or change its permissions"
        )


def _link_target(path: Path) -> Path:
    """What a link points to: that is replaced by a save, not the link."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path  # noqa: PTH114


def _file_mode(path: Path) -> int | None:
    """The mode of a file; None if there is none."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # such as a name that is too long
        raise UsageError(
            f"{shown(path)}: cannot be written to ({one_line(error)}); choose another "
            "name"
        ) from error


def _to_picture(image: npt.ArrayLike, quality: Any, name: str) -> Image.Image:
    """Checks what is to be encoded, and rounds it."""
    try:
        valid = 1 <= operator.index(quality) <= 100
    except TypeError:
        valid = False
    if not valid:
        raise UsageError(
            f"{name}: quality {quality!r} is not within 1 to 100; give a whole number"
        )
    return Image.fromarray(_to_bytes(as_array(image, "image"), name))


def _to_bytes(array: np.ndarray, name: str) -> np.ndarray:
    """Rounds ``[1, H, W, 3]`` or ``[H, W, 3]`` in [0, 1] to uint8 ``[H, W, 3]``."""
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise UsageError(
            f"{name}: the picture has shape {list(array.shape)}; give [1, height, "
            "width, 3] or [height, width, 3]"
        )
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise UsageError(
            f"{name}: the picture holds {array.dtype}; give float in [0, 1]"
        )
    levels = np.empty(array.shape, np.uint8)
    for row in range(0, len(array), _ROWS_AT_ONCE):
        values = array[row : row + _ROWS_AT_ONCE].astype(np.float32)
        if not np.isfinite(values).all():
            raise ImageError(
                f"{name}: the picture holds NaN or infinity and was not written; "
                "lower the learning rate or the weights"
            )
        np.clip(values, 0, 1, out=values)
        levels[row : row + _ROWS_AT_ONCE] = np.rint(values * 255)
    return levels


def _encode(
    picture: Image.Image,
    file: BinaryIO,
    extension: str,
    metadata: Mapping[str, str] | None,
    quality: int,
) -> None:
    image_format = SAVE_FORMATS[extension.lower()]
    options = save_options(image_format, metadata or {})
    if image_format != "PNG":
        options["quality"] = quality
    if image_format == "JPEG":
        # Halved colour resolution would blur saturated brush strokes.
        options["subsampling"] = 0
    picture.save(file, image_format, **options)
