"""MicroAST with its published weights: any style in one pass, to compare with.

Wang, Zhao, Zuo, Li, Chen, Xing and Lu, "MicroAST: Towards Super-Fast Ultra-Resolution
Arbitrary Style Transfer" (AAAI 2023). The weights are a file of the shared folder.
"""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfstyle.networks.layers import convolution_to_rgb, mirrored

SHARED = pathlib.Path(
    os.environ.get(
        "TFSTYLE_SHARED", pathlib.Path(__file__).resolve().parents[2] / "shared"
    )
)
"""The folder of reference data, which is not part of the project."""
WEIGHTS = SHARED / "weights" / "microast.npz"

_LAST = "decoder/dec3.10"
_PICTURE = tf.TensorSpec([None, None, None, 3])
_SIGNAL = tf.TensorSpec([None, 1, 1, 64])
_EPSILON = 1e-5


def stylize(content: Any, style: Any) -> np.ndarray:
    """Gives a photograph the style of any picture.

    Args:
      content: Float array ``[H, W, 3]`` or ``[1, H, W, 3]``, RGB in [0, 1].
      style: The same, of any size.

    Returns:
      The picture, ``[H, W, 3]`` float32, RGB in [0, 1].

    Raises:
      OSError: If the shared folder has no weights.
    """
    network = published()
    picture = network.paint(_batch(content), network.look(_batch(style)))
    return picture[0].numpy()


@functools.lru_cache(1)
def published() -> MicroAST:
    """The network with the published weights, read once."""
    return MicroAST(WEIGHTS)


class Look(NamedTuple):
    """What the network knows of a style, shallow features first.

    Attributes:
      means: Of features, ``[N, 1, 1, 64]`` each.
      deviations: Of features, ``[N, 1, 1, 64]`` each.
      weights: Factors of convolutions, ``[N, 1, 1, 64]`` each.
      biases: Factors of what convolutions are given, ``[N, 1, 1, 64]`` each.
    """

    means: tuple[tf.Tensor, ...]
    deviations: tuple[tf.Tensor, ...]
    weights: tuple[tf.Tensor, ...]
    biases: tuple[tf.Tensor, ...]


class MicroAST:
    """The network; ``look`` reads a style, and ``paint`` applies it."""

    def __init__(self, path: str | os.PathLike[str]):
        """Reads the weights.

        Raises:
          OSError: If the file cannot be read.
        """
        with np.load(path) as arrays:
            self._arrays = {name: arrays[name] for name in arrays}
        self.look = tf.function(self._look, input_signature=[_PICTURE])
        look = Look(*[(_SIGNAL, _SIGNAL)] * 4)
        self.paint = tf.function(self._paint, input_signature=[_PICTURE, look])

    def _look(self, style: tf.Tensor) -> Look:
        features = self._encoded(style, "style_encoder")
        means, deviations = zip(*map(_moments, features), strict=True)

        def signals(kind: str) -> tuple[tf.Tensor, ...]:
            names = (f"modulator/{kind}{i}.0" for i in (1, 2))
            convolved = map(self._convolution, features, names)
            return tuple(tf.reduce_mean(x, [1, 2], keepdims=True) for x in convolved)

        return Look(means, deviations, signals("weight"), signals("bias"))

    def _paint(self, content: tf.Tensor, look: Look) -> tf.Tensor:
        _, x = self._encoded(content, "content_encoder")
        for part, i in (("dec1", 1), ("dec2", 0)):
            mean, deviation = _moments(x)
            x = (x - mean) / deviation * look.deviations[i] + look.means[i]
            x = self._modulated(x, f"decoder/{part}", look.weights[i], look.biases[i])
        for i in (1, 6):
            x = tf.image.resize(x, 2 * tf.shape(x)[1:3])
            x = tf.nn.relu(self._convolution(x, f"decoder/dec3.{i}"))
            x = tf.nn.relu(self._convolution(x, f"decoder/dec3.{i + 2}"))
        x = self._convolution(x, _LAST)
        height, width = tf.unstack(tf.shape(content)[1:3])
        return tf.clip_by_value(x[:, :height, :width], 0.0, 1.0)

    def _encoded(self, x: tf.Tensor, encoder: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Features at a quarter of the size, shallow ones first."""
        for i, stride in ((0, 1), (2, 2), (4, 1), (6, 2), (8, 1)):
            x = tf.nn.relu(self._convolution(x, f"{encoder}/enc1.{i}", stride))
        shallow = self._modulated(x, f"{encoder}/enc1.10")
        return shallow, self._modulated(shallow, f"{encoder}/enc2.0")

    def _modulated(
        self,
        x: tf.Tensor,
        name: str,
        weight: tf.Tensor | float = 1.0,
        bias: tf.Tensor | float = 0.0,
    ) -> tf.Tensor:
        """A residual block whose convolutions are ``weight * conv(x) + bias * x``."""
        inner = weight * self._convolution(x, f"{name}.conv1") + bias * x
        inner = tf.nn.relu(inner)
        return x + weight * self._convolution(inner, f"{name}.conv2") + bias * inner

    def _convolution(self, x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        kernel = self._arrays[f"{name}.conv_layer/kernel"]
        bias = self._arrays[f"{name}.conv_layer/bias"]
        if name == _LAST:
            return convolution_to_rgb(x, kernel, bias)
        kernel = ungrouped(kernel, x.shape[-1])
        x = mirrored(x, kernel.shape[0] // 2)
        return tf.nn.conv2d(x, kernel, stride, "VALID") + bias


def ungrouped(kernel: np.ndarray, channels: int) -> np.ndarray:
    """The kernel of a convolution by groups of channels, with zeros between groups.

    On CPUs, TensorFlow computes it faster than it computes groups.

    Args:
      kernel: ``[h, w, channels per group, D]``.
      channels: All channels.

    Returns:
      Array ``[h, w, channels, D]``.
    """
    groups = channels // kernel.shape[2]
    parts = np.split(kernel, groups, 3)
    each = parts[0].shape[2:]
    whole = np.zeros((*kernel.shape[:2], groups, each[0], groups, each[1]), "float32")
    for i, part in enumerate(parts):
        whole[:, :, i, :, i] = part
    return whole.reshape(*kernel.shape[:2], channels, -1)


def _moments(features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and standard deviation over positions."""
    mean, variance = tf.nn.moments(features, [1, 2], keepdims=True)
    return mean, tf.sqrt(variance + _EPSILON)


def _batch(picture: Any) -> tf.Tensor:
    picture = tf.convert_to_tensor(picture, tf.float32)
    return tf.reshape(picture, [1, *picture.shape[-3:]])
