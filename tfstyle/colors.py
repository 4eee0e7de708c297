"""Colour statistics of pictures."""

from __future__ import annotations

import numpy as np

# Keeps the covariance of a picture of one colour invertible; a step of an 8-bit picture
# has a variance of 1.5e-5.
_LEAST_VARIANCE = 1e-5


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
    pixels = picture.reshape(-1, 3).astype("float64")
    wanted = reference.reshape(-1, 3).astype("float64")
    # With `bias`, a picture of one pixel has a covariance too.
    target, source = np.cov(wanted.T, bias=True), np.cov(pixels.T, bias=True)
    spread = _power(target, 0.5) @ _power(source, -0.5)
    matched = (pixels - pixels.mean(0)) @ spread.T + wanted.mean(0)
    return np.clip(matched, 0.0, 1.0).reshape(picture.shape).astype("float32")


def _power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, _LEAST_VARIANCE) ** exponent) @ vectors.T
