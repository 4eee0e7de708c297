"""Colours of pictures: matching their statistics, and keeping them in L*a*b*."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Keeps the covariance of a picture of one colour invertible. One level of an 8-bit
# picture, squared, is 1.5e-5.
_LEAST_VARIANCE = 1e-5
_CHUNK = 2**20

# CIE 1976 L*a*b* of sRGB with its own white, D65 (IEC 61966-2-1).
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = _TO_XYZ.sum(1)
_KNEE = 6 / 29


@dataclasses.dataclass(frozen=True)
class ColorStatistics:
    """Mean ``[3]`` and covariance ``[3, 3]`` of colours, float64."""

    mean: np.ndarray
    covariance: np.ndarray


def color_statistics(
    picture: np.ndarray, weights: np.ndarray | None = None
) -> ColorStatistics:
    """Computes the mean and covariance of the colours of a picture.

    Args:
      picture: Float array ``[..., 3]``.
      weights: How much each pixel counts, of at least 0, ``[...]``; all the same if
        None.

    Returns:
      The statistics.
    """
    shares = np.ones(picture.shape[:-1]) if weights is None else weights
    shares = np.broadcast_to(shares, picture.shape[:-1])
    parts = list(zip(_chunks(picture), _split(shares.reshape(-1, 1)), strict=True))
    count = shares.sum(dtype="float64")
    mean = sum((c * w).sum(0, dtype="float64") for c, w in parts) / count
    squares = sum((c - mean).T @ ((c - mean) * w) for c, w in parts)
    return ColorStatistics(mean, squares / count)


def mixed_statistics(
    statistics: Sequence[ColorStatistics], weights: npt.ArrayLike
) -> ColorStatistics:
    """Computes the statistics of a mixture of pictures.

    Args:
      statistics: The statistics of each picture.
      weights: The share of each picture in the mixture; they add up to 1.

    Returns:
      The statistics of the mixture.
    """
    shares = np.asarray(weights, "float64")
    mean = sum(w * s.mean for w, s in zip(shares, statistics, strict=True))
    covariance = sum(
        w * (s.covariance + np.outer(s.mean - mean, s.mean - mean))
        for w, s in zip(shares, statistics, strict=True)
    )
    return ColorStatistics(np.asarray(mean), np.asarray(covariance))


def match_colors(
    picture: np.ndarray,
    reference: np.ndarray | ColorStatistics,
    *,
    strength: float = 1.0,
    source: ColorStatistics | None = None,
) -> np.ndarray:
    """Gives a picture the mean and covariance of another picture's colours.

    The linear transfer ``x ↦ Lr Lp⁻¹ (x − μp) + μr`` of Gatys et al., "Preserving Color
    in Neural Artistic Style Transfer" (2016), section 4.1, where L is the symmetric
    root ``U Λ^½ Uᵀ`` of the covariance, as in image analogies.

    Args:
      picture: Float array ``[..., 3]``, RGB in [0, 1].
      reference: Float array ``[..., 3]``, RGB in [0, 1], or its statistics.
      strength: From 0, the picture as it is, to 1.
      source: The statistics to map from; the picture's own if None.

    Returns:
      Float32 array of the shape of ``picture``, clipped to [0, 1].
    """
    if source is None:
        source = color_statistics(picture)
    if not isinstance(reference, ColorStatistics):
        reference = color_statistics(reference)
    ours = _symmetric_root(source.covariance)
    spread = _symmetric_root(reference.covariance) @ np.linalg.inv(ours)
    spread = strength * spread + (1 - strength) * np.eye(3)
    wanted = strength * reference.mean + (1 - strength) * source.mean
    matched = np.empty(picture.shape, "float32")
    for pixels, result in zip(_chunks(picture), _chunks(matched), strict=True):
        np.clip((pixels - source.mean) @ spread.T + wanted, 0.0, 1.0, out=result)
    return matched


def keep_colors(
    picture: np.ndarray, colored: np.ndarray, strength: float = 1.0
) -> np.ndarray:
    """Combines the luminance of one picture with the colours of another.

    Luminance-only transfer (Gatys et al. 2016, "Preserving Color", section 4.2) in CIE
    L*a*b*. Where sRGB has no colour of that luminance with those a* and b*, the result
    is clipped. Changing the luminance until there is one would wipe out strokes.

    Args:
      picture: Float array ``[..., 3]``, RGB in [0, 1], for L*.
      colored: Float array of the same shape, for a* and b*.
      strength: From 0, the picture as it is, to 1.

    Returns:
      Float32 array of the shape of ``picture``, in [0, 1].
    """
    kept = np.empty(picture.shape, "float32")
    parts = zip(_chunks(picture), _chunks(colored), _chunks(kept), strict=True)
    for ours, theirs, result in parts:
        result[:] = _recolored(rgb_to_lab(ours), rgb_to_lab(theirs), strength)
    return kept


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """Converts sRGB in [0, 1] to CIE L*a*b* under D65, L* in 0 to 100.

    Args:
      rgb: Float array ``[..., 3]``.

    Returns:
      Float64 array ``[..., 3]``.
    """
    rgb = np.asarray(rgb, "float64")
    linear = np.where(
        rgb <= 0.04045,
        rgb / 12.92,
        (np.maximum(rgb, 0.04045) + 0.055) ** 2.4 / 1.055**2.4,
    )
    x, y, z = np.moveaxis(_lab_curve(linear @ _TO_XYZ.T / _WHITE), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """Converts CIE L*a*b* to sRGB, the inverse of ``rgb_to_lab``.

    Args:
      lab: Float array ``[..., 3]``.

    Returns:
      Float64 array ``[..., 3]``; outside of [0, 1] where sRGB has no such colour.
    """
    light, a, b = np.moveaxis(np.asarray(lab, "float64"), -1, 0)
    y = (light + 16) / 116
    roots = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(roots > _KNEE, roots**3, 3 * _KNEE**2 * (roots - 4 / 29)) * _WHITE
    linear = xyz @ np.linalg.inv(_TO_XYZ).T
    curved = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, curved)


def _recolored(ours: np.ndarray, theirs: np.ndarray, strength: float) -> np.ndarray:
    ours[:, 1:] += strength * (theirs[:, 1:] - ours[:, 1:])
    return np.clip(lab_to_rgb(ours), 0.0, 1.0)


def _lab_curve(values: np.ndarray) -> np.ndarray:
    linear = values / (3 * _KNEE**2) + 4 / 29
    return np.where(values > _KNEE**3, np.cbrt(values), linear)


def _chunks(picture: np.ndarray) -> list[np.ndarray]:
    """Views of the pixels, ``[n, 3]``, few enough for float64 to take little memory."""
    return _split(picture.reshape(-1, 3))


def _split(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, len(rows) // _CHUNK + 1)


def _symmetric_root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, _LEAST_VARIANCE) ** 0.5) @ vectors.T
