"""Reading pictures: files, open files, PIL images, arrays and tensors become arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from tfstyle.errors import UsageError, one_line
from tfstyle.files import shown
from tfstyle.images.decoders import MAX_PIXELS, decode, open_file, open_picture
from tfstyle.images.resizing import as_array, check_filter, check_length, resize_image
from tfstyle.images.samples import resolve_sample
from tfstyle.images.srgb import from_picture, on_white

Source: TypeAlias = str | os.PathLike[str] | BinaryIO | Image.Image | npt.ArrayLike
"""What a picture can be read from; see ``load_image``."""

_ROUNDING = 1e-5  # how far floats may lie outside of [0, 1]


def load_image(
    source: Source,
    size: int | None = None,
    *,
    size_of: Literal["longest", "shortest"] = "longest",
    allow_upscale: bool = False,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
    name: str = "source",
) -> np.ndarray:
    """Reads a picture, upright, in sRGB and without transparency.

    Files are PNG, JPEG, WebP, BMP, TIFF or GIF (the first frame). The EXIF orientation
    is applied. An embedded ICC profile is converted to sRGB; one that is broken, or is
    for other channels, is ignored. Transparent parts are laid on white. 16-bit grey
    keeps its precision and is taken for sRGB grey. 16-bit colour is read as 8-bit,
    since Pillow decodes the files.

    Args:
      source: A path, or ``sample:NAME`` for a sample, such as ``sample:cat``; a file
        that is open for reading bytes and can ``seek``, or a ``PIL.Image`` (neither is
        closed); or an array or tensor of shape ``[H, W]``, ``[H, W, 1|3|4]`` or
        ``[1, H, W, 1|3|4]``: uint8 in [0, 255], uint16 in [0, 65535], or bool or float
        in [0, 1]. A fourth channel is alpha.
      size: Length in pixels of the side that ``size_of`` names; the other side follows
        in proportion. None keeps the picture's own size.
      size_of: The "longest" or the "shortest" side.
      allow_upscale: Whether a picture smaller than ``size`` is enlarged; otherwise it
        keeps its own size.
      resample: Pillow's filter, which is widened when it shrinks (antialiased).
      name: What messages call a picture that is no file, such as the argument that it
        was given for.

    Returns:
      The picture, float32 ``[1, H, W, 3]``, RGB, in [0, 1].

    Raises:
      UsageError: If there is no such file or sample, the source is of another type,
        shape or range, or the size is not a whole number of at least 1.
      ImageError: If a file is empty, damaged, of another format or over ``MAX_PIXELS``,
        or the picture is wholly transparent.
    """
    size = None if size is None else check_length(size, "size")
    if size_of not in ("longest", "shortest"):
        raise UsageError(f'size_of is {size_of!r}; give "longest" or "shortest"')
    resample = check_filter(resample)
    pixels, name = _read(source, name)
    if isinstance(pixels, Image.Image):
        width, height = pixels.size
    else:
        height, width = pixels.shape[:2]
    target = (height, width)
    if size is not None:
        target = _scaled(target, size, size_of, allow_upscale, name)

    if isinstance(pixels, Image.Image):
        if target != (height, width):
            pixels = pixels.resize((target[1], target[0]), resample)
        return np.divide(np.asarray(pixels)[None], 255, dtype=np.float32)
    if target != (height, width):
        return resize_image(pixels[None], target, resample=resample)
    return pixels[None]


def load_batch(
    source: Source | list[Source] | tuple[Source, ...],
    size: int | None = None,
    *,
    size_of: Literal["longest", "shortest"] = "longest",
    allow_upscale: bool = False,
    name: str = "source",
) -> np.ndarray:
    """Reads one picture, or several that have one size when loaded.

    Args:
      source: A picture as in ``load_image``, a list or tuple of them, or an array or
        tensor ``[N, H, W, 1|3|4]``.
      size: Same as in ``load_image``.
      size_of: Same as in ``load_image``.
      allow_upscale: Same as in ``load_image``.
      name: What messages call the pictures, such as the argument that they were given
        for.

    Returns:
      The pictures, float32 ``[N, H, W, 3]``, RGB, in [0, 1].

    Raises:
      UsageError: If there is no picture, or the sizes differ; or same as in
        ``load_image``.
      ImageError: Same as in ``load_image``.
    """
    sources = split_batch(source)
    if not sources:
        raise UsageError(f"no {name} picture: the list is empty")
    names = [f"{name}[{i}]" for i in range(len(sources))] if sources[1:] else [name]
    pictures = [
        load_image(each, size, size_of=size_of, allow_upscale=allow_upscale, name=label)
        for each, label in zip(sources, names, strict=True)
    ]
    sizes = sorted({picture.shape[1:3] for picture in pictures})
    if len(sizes) > 1:
        listed = ", ".join(f"{width}×{height}" for height, width in sizes)
        raise UsageError(
            f"the {name} pictures have several sizes ({listed}); a batch needs one, so "
            "leave those of another size to another run"
        )
    return pictures[0] if len(pictures) == 1 else np.concatenate(pictures)


def split_batch(source: Any) -> list[Any]:
    """The pictures of a batch, not read yet.

    Args:
      source: One picture, a list or tuple of them, or an array or tensor
        ``[N, H, W, C]``.

    Returns:
      A list of them; of the array itself where N is 1.
    """
    if isinstance(source, list | tuple):
        return list(source)
    shape: Any = getattr(source, "shape", ())
    if len(shape) == 4 and shape[0] != 1:
        return [source[i] for i in range(shape[0])]
    return [source]


def _read(source: Source, name: str) -> tuple[Image.Image | np.ndarray, str]:
    """Decodes a picture, at its own size.

    Returns:
      Mode RGB or float32 ``[H, W, 3]`` in [0, 1]; and what messages call it.
    """
    source = resolve_sample(source)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        name = shown(path)
        with open_file(path) as file:
            return decode(open_picture(file, name), name), name
    if isinstance(source, Image.Image):
        return decode(source, name), name
    if hasattr(source, "read") and hasattr(source, "seek"):
        file_name = getattr(source, "name", None)  # a number for a file without a path
        if file_name and isinstance(file_name, str):
            name = shown(file_name)
        return decode(open_picture(_rewound(source, name), name), name), name
    accepted = "a path, an open file, a PIL.Image, an array or a tensor"
    return _from_array(as_array(source, name, accepted), name), name


def _rewound(file: Any, name: str) -> BinaryIO:
    """An open file, at its beginning."""
    try:
        file.seek(0)
    except (OSError, ValueError) as error:  # a pipe, or a file that is closed
        raise UsageError(
            f"{name}: cannot be read from its beginning ({one_line(error)}); read it "
            "into an io.BytesIO first"
        ) from error
    return file


def _from_array(array: np.ndarray, name: str) -> Image.Image | np.ndarray:
    """Mode RGB for uint8; else float32 ``[H, W, 3]`` in [0, 1]."""
    shape = list(array.shape)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise UsageError(
            f"{name} has shape {shape}; give one picture, [H, W], [H, W, 1|3|4] or "
            "[1, H, W, 3]"
        )
    if array.dtype == np.uint8:
        grey = array.shape[-1] == 1
        return from_picture(Image.fromarray(array[..., 0] if grey else array), name)
    values = _unit_floats(array, name)
    if values.shape[-1] == 4:
        return on_white(values[..., :3], values[..., 3:], name)
    return on_white(values, None, name)


def _unit_floats(array: np.ndarray, name: str) -> np.ndarray:
    """Converts uint16, bool and floats, bfloat16 too, to float32 in [0, 1]."""
    if array.dtype == np.uint16:
        return np.divide(array, 65535, dtype=np.float32)
    if array.dtype.kind not in "fb" and array.dtype.name != "bfloat16":
        raise UsageError(
            f"{name} holds {array.dtype}; give uint8 in [0, 255], uint16 in "
            "[0, 65535] or float in [0, 1]"
        )
    values = array.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    # Written so that NaN fails, too.
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise UsageError(
            f"{name} holds floats from {low:g} to {high:g}, not within [0, 1]; "
            "scale it, or give uint8 in [0, 255]"
        )
    return np.clip(values, 0, 1)


def _scaled(
    shape: tuple[int, int], size: int, size_of: str, allow_upscale: bool, name: str
) -> tuple[int, int]:
    """The (height, width) at which the named side of ``shape`` is ``size`` long."""
    side = max(shape) if size_of == "longest" else min(shape)
    if size == side or (size > side and not allow_upscale):
        return shape
    if size > MAX_PIXELS:  # perhaps too large for a float
        raise UsageError(
            f"{name}: size {size} is over the limit of {MAX_PIXELS / 1e6:g} "
            "megapixels; give a smaller size"
        )
    height, width = (max(1, round(length * size / side)) for length in shape)
    if height * width > MAX_PIXELS:
        raise UsageError(
            f"{name}: at size {size} it would be {width}×{height}, over the limit of "
            f"{MAX_PIXELS / 1e6:g} megapixels; give a smaller size"
        )
    return height, width
