"""Resizing pictures, and the checks of sizes."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tfstyle.errors import UsageError, one_line
from tfstyle.images.decoders import MAX_PIXELS


def resize_image(
    image: npt.ArrayLike,
    size: tuple[int, int],
    *,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> np.ndarray:
    """Resizes pictures in float32, antialiased.

    Args:
      image: Array or tensor ``[N, H, W, C]``, float, in [0, 1].
      size: The new (height, width) in pixels.
      resample: Pillow's filter, which is widened when it shrinks (antialiased).

    Returns:
      The pictures, float32 ``[N, height, width, C]``, clipped to [0, 1]: Lanczos and
      bicubic overshoot at edges. The array itself if it has that size.

    Raises:
      UsageError: If the shape or the type is another, or the size is not two whole
        numbers of at least 1.
    """
    resample = check_filter(resample)
    height, width = _check_sides(size)
    array = _float_array(image)
    if (height, width) == array.shape[1:3]:
        return array
    resized = np.empty((len(array), height, width, array.shape[-1]), np.float32)
    for picture, channel in np.ndindex(len(array), array.shape[-1]):
        plane = Image.fromarray(np.ascontiguousarray(array[picture, ..., channel]))
        resized[picture, ..., channel] = np.asarray(
            plane.resize((width, height), resample)
        )
    return np.clip(resized, 0, 1, out=resized)


def as_array(
    value: Any, argument: str, accepted: str = "an array or a tensor"
) -> np.ndarray:
    """Converts an argument to an array.

    Args:
      value: An array, a tensor, or nested lists of numbers.
      argument: The name of the argument.
      accepted: What may be given, for messages.

    Returns:
      The array, of any shape and any type of numbers.

    Raises:
      UsageError: If the argument is nothing of the kind.
    """
    kind = "None" if value is None else f"of type {type(value).__name__}"
    try:
        array = np.asarray(value)
    # Such as ragged lists, symbolic tensors, and tensors on another device.
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise UsageError(
            f"{argument} is {kind} and cannot be made an array ({one_line(error)}); "
            f"give {accepted}"
        ) from error
    if array.dtype.kind in "OUSV" and array.dtype.name != "bfloat16":
        raise UsageError(f"{argument} is {kind}; give {accepted}")
    return array


def check_length(value: Any, argument: str) -> int:
    """Checks a length in pixels.

    Raises:
      UsageError: If it is not a whole number of at least 1.
    """
    try:
        length = operator.index(value)
    except TypeError:
        length = 0
    if length < 1 or isinstance(value, bool | np.bool_):
        raise UsageError(
            f"{argument} is {_brief(value)}; give a whole number of pixels, at least 1"
        )
    return length


def check_filter(resample: Any) -> Image.Resampling:
    """Checks a filter of Pillow's.

    Raises:
      UsageError: If there is no such filter.
    """
    try:
        return Image.Resampling(resample)
    except ValueError:
        names = ", ".join(Image.Resampling.__members__)
        raise UsageError(
            f"resample is {_brief(resample)}; give one of PIL.Image.Resampling: {names}"
        ) from None


def _brief(value: Any) -> str:
    return " ".join(repr(value).split())[:100]


def _check_sides(size: Any) -> tuple[int, int]:
    try:
        height, width = size
    except (TypeError, ValueError):
        raise UsageError(f"size is {_brief(size)}; give (height, width)") from None
    height, width = (check_length(side, "size") for side in (height, width))
    if height * width > MAX_PIXELS:
        raise UsageError(
            f"size is {width}×{height} pixels, over the limit of "
            f"{MAX_PIXELS / 1e6:g} megapixels; give a smaller size"
        )
    return height, width


def _float_array(image: npt.ArrayLike) -> np.ndarray:
    array = as_array(image, "image")
    if array.ndim != 4 or 0 in array.shape:
        raise UsageError(
            f"image has shape {list(array.shape)}; give [N, height, width, channels]"
        )
    if array.dtype.kind not in "fb" and array.dtype.name != "bfloat16":
        raise UsageError(f"image holds {array.dtype}; give float in [0, 1]")
    return np.asarray(array, np.float32)
