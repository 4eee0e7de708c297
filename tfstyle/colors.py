"""Colour statistics of pictures."""

from __future__ import annotations

import numpy as np

# Keeps the covariance of a picture of one colour invertible; a step of an 8-bit picture
# has a variance of 1.5e-5.
_LEAST_VARIANCE = 1e-5
_CHUNK = 2**20


def match_colors(picture: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Gives a picture the mean and covariance of another's colours.

    The linear transfer ``Σr^½ Σp^-½ (x − μp) + μr`` of Gatys et al., "Preserving Color
    in Neural Artistic Style Transfer" (2016), section 4.1, in the symmetric form of the
    image analogies.

    Args:
      picture: Float array ``[..., 3]``, RGB in [0, 1].
      reference: Float array ``[..., 3]``, RGB in [0, 1].

    Returns:
      Float32 array of the shape of ``picture``, clipped to [0, 1].
    """
    mean, source = _statistics(picture)
    wanted, target = _statistics(reference)
    spread = (_power(target, 0.5) @ _power(source, -0.5)).T
    matched = np.empty(picture.shape, "float32")
    for pixels, result in zip(_chunks(picture), _chunks(matched), strict=True):
        np.clip((pixels - mean) @ spread + wanted, 0.0, 1.0, out=result)
    return matched


def _statistics(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the colours, float64."""
    count = picture.size // 3
    mean = sum(c.sum(0, dtype="float64") for c in _chunks(picture)) / count
    squares = sum((c - mean).T @ (c - mean) for c in _chunks(picture))
    return mean, squares / count


def _chunks(picture: np.ndarray) -> list[np.ndarray]:
    """Views of the pixels, ``[n, 3]``, few enough for float64 to take little memory."""
    pixels = picture.reshape(-1, 3)
    return np.array_split(pixels, len(pixels) // _CHUNK + 1)


def _power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, _LEAST_VARIANCE) ** exponent) @ vectors.T
