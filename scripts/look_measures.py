"""How stylized pictures look, in numbers, for ``evaluate_looks.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

import tfstyle
from tfstyle.losses import (
    content_loss,
    gram_matrix,
    moments,
    style_loss,
    wasserstein_loss,
)
from tfstyle.losses.neighbors import CELL, hypercolumns, unit

OCTAVES = 5
"""From wavelengths of 2 to 4 pixels to those of 32 to 64."""
YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
)
"""Luma and two chromas of RGB, as in JPEG."""

_ROUNDING = 1 / 12 / 255**2  # the variance that 8 bits add
_POSITIONS = 32  # rows and columns, at most, whose self-similarity is compared
_CHUNK = 1024
_TINY = 1e-12


class Judge:
    """Measures pictures by the features of a network."""

    def __init__(self, features: tfstyle.FeatureExtractor):
        """Takes the features; the last layer is also that of the content."""
        self._features = features
        self._strides = {k: field.stride for k, field in features.fields.items()}

    def __call__(
        self, picture: np.ndarray, content: np.ndarray, style: np.ndarray
    ) -> dict[str, float]:
        """Measures a picture.

        Args:
          picture: What was made, ``[1, H, W, 3]`` in [0, 1].
          content: The photograph, of the same shape.
          style: The style picture at the scale of its strokes.

        Returns:
          All measures by name; parts of one as ``name/part``.
        """
        made, kept, wanted = map(self._features, (picture, content, style))
        last = self._features.layers[-1]
        return {
            **style_distances(made, wanted),
            **neighbor_distances(*self._columns((made, wanted), (picture, style))),
            **spectrum_differences(picture, style),
            "content": float(content_loss(made[last], kept[last])[0]),
            "self_similarity": self_similarity_distance(
                *self._columns((made, kept), (picture, content))
            ),
        }

    def _columns(
        self,
        features: Sequence[Mapping[str, tf.Tensor]],
        pictures: Sequence[np.ndarray],
    ) -> list[np.ndarray]:
        """Hypercolumns of pictures, ``[h, w, D]`` each.

        Each layer is divided by its root mean square in the last picture, as the style
        loss does.
        """
        shares = {
            layer: 1 / np.sqrt(np.square(f).sum(-1).mean() + _TINY)
            for layer, f in features[-1].items()
        }
        return [
            hypercolumns(
                f, self._strides, shares, [side // CELL for side in picture.shape[1:3]]
            )[0].numpy()
            for f, picture in zip(features, pictures, strict=True)
        ]


def style_distances(
    made: Mapping[str, tf.Tensor], wanted: Mapping[str, tf.Tensor]
) -> dict[str, float]:
    """The distances of Gram matrices and of Gaussians, by layer and on average.

    Args:
      made: Features of the picture by layer, ``[1, h, w, C]``.
      wanted: Those of the style.

    Returns:
      ``‖G−A‖² / ‖A‖²`` as ``gram``; the squared Wasserstein distance over ``E‖f‖²`` as
      ``wasserstein``.
    """
    found: dict[str, dict[str, float]] = {"gram": {}, "wasserstein": {}}
    for layer in made:
        pair = [tf.cast(features[layer], tf.float64) for features in (made, wanted)]
        found["gram"][layer] = float(style_loss(*map(gram_matrix, pair))[0])
        ours, theirs = map(moments, pair)
        distance = wasserstein_loss(ours, theirs, root=_covariance_root(theirs))
        found["wasserstein"][layer] = max(float(distance[0]), 0.0)
    return {
        name: value
        for kind, by_layer in found.items()
        for name, value in {
            kind: float(np.mean(list(by_layer.values()))),
            **{f"{kind}/{layer}": value for layer, value in by_layer.items()},
        }.items()
    }


def _covariance_root(statistics: tf.Tensor) -> tf.Tensor:
    """R with ``RRᵀ`` the covariance: all of it, so that equal pictures have 0."""
    mean = statistics[..., -1:]
    covariance = statistics[..., :-1] - mean * tf.linalg.matrix_transpose(mean)
    variances, axes = tf.linalg.eigh(covariance)
    return axes * tf.sqrt(tf.nn.relu(variances))[..., None, :]


def neighbor_distances(made: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Mean centred cosine distances to the nearest hypercolumn, both ways.

    Args:
      made: Hypercolumns of the picture, ``[h, w, D]``.
      wanted: Those of the style, ``[h', w', D]``.

    Returns:
      ``to_style``, from each of the picture to the nearest of the style: whether all of
      it is drawn like the style. ``from_style``, the other way round: whether all of
      the style is in the picture.
    """
    mean = wanted.mean((0, 1))
    made, wanted = (
        unit(columns - mean).numpy().reshape(-1, len(mean))
        for columns in (made, wanted)
    )
    return {"to_style": _nearest(made, wanted), "from_style": _nearest(wanted, made)}


def _nearest(columns: np.ndarray, among: np.ndarray) -> float:
    parts = (columns[i : i + _CHUNK] for i in range(0, len(columns), _CHUNK))
    closest = np.concatenate([(part @ among.T).max(1) for part in parts])
    return float(np.mean(1 - closest))


def spectrum_differences(picture: np.ndarray, style: np.ndarray) -> dict[str, float]:
    """How much more power a picture has than the style in each octave, as log2.

    Args:
      picture: ``[1, H, W, 3]`` in [0, 1].
      style: The same, of any size.

    Returns:
      ``luma/2-4`` and so on by wavelengths in pixels, and ``luma`` and ``chroma``, the
      means of their absolute values.
    """
    found = {}
    differences = log_spectrum(picture) - log_spectrum(style)
    for kind, octaves in zip(("luma", "chroma"), differences, strict=True):
        found[kind] = float(np.abs(octaves).mean())
        for i, difference in enumerate(octaves):
            found[f"{kind}/{2 << i}-{4 << i}"] = float(difference)
    return found


def log_spectrum(picture: np.ndarray) -> np.ndarray:
    """log2 of the variance in each octave of wavelengths, the finest first.

    Args:
      picture: ``[1, H, W, 3]`` in [0, 1].

    Returns:
      Array ``[2, octaves]``: of luma, and of both chromas together.
    """
    height, width = picture.shape[1:3]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    planes = np.moveaxis(picture[0].astype("float64") @ YCBCR.T, -1, 0)
    mean = (planes * window).sum((1, 2), keepdims=True) / window.sum()
    power = np.abs(np.fft.fft2((planes - mean) * window)) ** 2
    power /= height * width * np.square(window).sum()
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    octaves = np.empty([2, OCTAVES])
    for i in range(OCTAVES):
        # The corners of the spectrum, finer than 2 pixels, belong to the finest octave.
        above, below = 1 / (4 << i), 1 / (2 << i) if i else 1.0
        inside = (above <= frequency) & (frequency < below)
        luma, *chroma = power[:, inside].sum(1)
        octaves[:, i] = luma, sum(chroma)
    return np.log2(octaves + _ROUNDING)


def self_similarity_distance(made: np.ndarray, kept: np.ndarray) -> float:
    """How differently the cells of two pictures resemble one another, from 0 to 2.

    The content loss of STROTSS (Kolkin, Salavon and Shakhnarovich 2019): the cosine
    distances from each cell to all, over their sum; the absolute differences of these,
    summed, on average over cells. It does not mind another texture everywhere alike.

    Args:
      made: Hypercolumns of one picture, ``[h, w, D]``.
      kept: Those of the other, of the same shape.
    """
    down, across = (-(-side // _POSITIONS) for side in made.shape[:2])
    shares = []
    for columns in (made, kept):
        directions = unit(columns[::down, ::across].reshape(-1, columns.shape[-1]))
        distances = np.maximum(1 - directions @ tf.transpose(directions), 0)
        shares.append(distances / (distances.sum(0) + _TINY))
    return float(np.abs(shares[0] - shares[1]).sum(0).mean())
