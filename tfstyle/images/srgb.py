"""Pixels of any kind become sRGB on white: modes, transparency, ICC profiles."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from tfstyle.errors import ImageError

_GREY_MODES = ("1", "L", "LA", "La")


def from_picture(picture: Image.Image, name: str) -> Image.Image | np.ndarray:
    """Converts a decoded picture to sRGB on white.

    Args:
      picture: A picture of any of Pillow's modes, upright.
      name: What messages call it.

    Returns:
      A picture of mode RGB; or, where 8 bits would lose precision, float32
      ``[H, W, 3]`` in [0, 1].

    Raises:
      ImageError: If every pixel is transparent, or values of more than 8 bits are
        outside the range of their mode.
    """
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _from_deep_grey(picture, name)
    profile = picture.info.get("icc_profile")
    grey = picture.mode in _GREY_MODES
    if not picture.has_transparency_data:
        if picture.mode != "CMYK":
            picture = picture.convert("RGB")
        return _to_srgb(picture, profile, grey)
    if picture.mode == "La":
        picture = picture.convert("LA")
    picture = picture.convert("RGBA")
    alpha = picture.getchannel("A")
    if alpha.getextrema()[1] == 0:
        raise _all_transparent(name)
    colours = _to_srgb(picture.convert("RGB"), profile, grey)
    white = Image.new("RGB", picture.size, "white")
    return Image.composite(colours, white, alpha)


def on_white(values: np.ndarray, alpha: np.ndarray | None, name: str) -> np.ndarray:
    """Lays a picture on white.

    Args:
      values: Float32 ``[H, W, 1|3]`` in [0, 1].
      alpha: ``[H, W, 1]`` in [0, 1], 0 where transparent; None if nothing is.
      name: What messages call the picture.

    Returns:
      A new float32 array ``[H, W, 3]`` in [0, 1].

    Raises:
      ImageError: If every pixel is transparent.
    """
    if alpha is not None:
        if not alpha.any():
            raise _all_transparent(name)
        values = values * alpha + (1 - alpha)
    shape = (*values.shape[:2], 3)
    return np.array(np.broadcast_to(values, shape), dtype=np.float32)


def _from_deep_grey(picture: Image.Image, name: str) -> np.ndarray:
    """Grey of more than 8 bits as float32 ``[H, W, 3]`` in [0, 1]."""
    values = np.asarray(picture)
    limit = 1.0 if picture.mode == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    # Written so that NaN fails, too.
    if not (low >= 0 and high <= limit):
        raise ImageError(
            f"{name}: its values go from {low:g} to {high:g}, not within 0 to "
            f"{limit:g}; convert it to 8 or 16 bits first"
        )
    grey = np.divide(values, limit, dtype=np.float32)[..., None]
    transparent = picture.info.get("transparency")
    if transparent is None:
        return on_white(grey, None, name)
    alpha = np.asarray(values != transparent, np.float32)
    return on_white(grey, alpha[..., None], name)


def _to_srgb(colours: Image.Image, profile: bytes | None, grey: bool) -> Image.Image:
    """Converts mode RGB or CMYK to sRGB, of mode RGB.

    A profile that is broken, or is for other channels, is ignored.
    """
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            if space == "GRAY" and grey:
                colours = colours.convert("L")
            if {"GRAY": "L"}.get(space, space) == colours.mode:
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(
                    colours, source, srgb, outputMode="RGB"
                )
                assert converted is not None
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return colours.convert("RGB")


def _all_transparent(name: str) -> ImageError:
    return ImageError(
        f"{name}: every pixel is transparent; lay it on a background first"
    )
