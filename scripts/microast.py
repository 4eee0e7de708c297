"""MicroAST with its published weights: any style in one pass, to compare with.

Wang, Zhao, Zuo, Li, Chen, Xing and Lu, "MicroAST: Towards Super-Fast Ultra-Resolution
Arbitrary Style Transfer" (AAAI 2023). The weights are a file of the shared folder.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

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
    return published()(_batch(content), _batch(style))[0]


@functools.lru_cache(1)
def published() -> InTensorFlow:
    """The network with the published weights, read once."""
    return InTensorFlow(WEIGHTS)


class Look(NamedTuple):
    """What the network knows of a style, shallow features first.

    Attributes:
      means: Of features, one number per channel each.
      deviations: Of features, the same.
      weights: Factors of convolutions, the same.
      biases: Factors of what convolutions are given, the same.
    """

    means: tuple[Any, ...]
    deviations: tuple[Any, ...]
    weights: tuple[Any, ...]
    biases: tuple[Any, ...]


class Operations(Protocol):
    """What the network is made of, in one library."""

    def convolution(self, x: Any, name: str, stride: int = 1) -> Any:
        """A convolution of what is continued by its mirror image."""

    def relu(self, x: Any) -> Any:
        """Positive values."""

    def mean(self, x: Any) -> Any:
        """The mean over positions."""

    def moments(self, x: Any) -> tuple[Any, Any]:
        """Mean and standard deviation over positions."""

    def enlarged(self, x: Any) -> Any:
        """Twice the size, linearly."""

    def picture(self, x: Any, content: Any) -> Any:
        """Values in [0, 1], of the size of a picture."""


class MicroAST:
    """The network, in the operations of any library."""

    def __init__(self, operations: Operations):
        """Is made of these operations."""
        self._do = operations

    def look(self, style: Any) -> Look:
        """Reads a style."""
        features = self._encoded(style, "style_encoder")
        means, deviations = zip(*map(self._do.moments, features), strict=True)

        def signals(kind: str) -> tuple[Any, ...]:
            names = (f"modulator/{kind}{i}.0" for i in (1, 2))
            convolved = map(self._do.convolution, features, names)
            return tuple(map(self._do.mean, convolved))

        return Look(means, deviations, signals("weight"), signals("bias"))

    def paint(self, content: Any, look: Look) -> Any:
        """Applies a style."""
        do = self._do
        _, x = self._encoded(content, "content_encoder")
        for part, i in (("dec1", 1), ("dec2", 0)):
            mean, deviation = do.moments(x)
            x = (x - mean) / deviation * look.deviations[i] + look.means[i]
            x = self._modulated(x, f"decoder/{part}", look.weights[i], look.biases[i])
        for i in (1, 6):
            x = do.enlarged(x)
            x = do.relu(do.convolution(x, f"decoder/dec3.{i}"))
            x = do.relu(do.convolution(x, f"decoder/dec3.{i + 2}"))
        return do.picture(do.convolution(x, _LAST), content)

    def _encoded(self, x: Any, encoder: str) -> tuple[Any, Any]:
        """Features at a quarter of the size, shallow ones first."""
        do = self._do
        for i, stride in ((0, 1), (2, 2), (4, 1), (6, 2), (8, 1)):
            x = do.relu(do.convolution(x, f"{encoder}/enc1.{i}", stride))
        shallow = self._modulated(x, f"{encoder}/enc1.10")
        return shallow, self._modulated(shallow, f"{encoder}/enc2.0")

    def _modulated(self, x: Any, name: str, weight: Any = 1.0, bias: Any = 0.0) -> Any:
        """A residual block whose convolutions are ``weight * conv(x) + bias * x``."""
        do = self._do
        inner = do.relu(weight * do.convolution(x, f"{name}.conv1") + bias * x)
        return x + weight * do.convolution(inner, f"{name}.conv2") + bias * inner


class InTensorFlow:
    """The network in TensorFlow, as a function of ``[1, H, W, 3]`` arrays."""

    def __init__(self, path: str | os.PathLike[str]):
        """Reads the weights.

        Raises:
          OSError: If the file cannot be read.
        """
        network = MicroAST(_TensorFlow(_arrays(path)))
        look = Look(*[(_SIGNAL, _SIGNAL)] * 4)
        self._look = tf.function(network.look, input_signature=[_PICTURE])
        self._paint = tf.function(network.paint, input_signature=[_PICTURE, look])

    def __call__(self, content: Any, style: Any) -> np.ndarray:
        """Reads the style, and gives it to the photograph."""
        return self._paint(content, self._look(style)).numpy()


class InTorch:
    """The network in PyTorch, run as it stands, as its authors do."""

    def __init__(self, path: str | os.PathLike[str]):
        """Reads the weights; raises the same as in ``InTensorFlow``."""
        self._operations = _Torch(_arrays(path))
        self._network = MicroAST(self._operations)

    def __call__(self, content: np.ndarray, style: np.ndarray) -> np.ndarray:
        """Same as in ``InTensorFlow``."""
        torch = self._operations.torch
        with torch.inference_mode():
            content, style = (
                torch.from_numpy(picture).permute(0, 3, 1, 2)
                for picture in (content, style)
            )
            painted = self._network.paint(content, self._network.look(style))
            return painted.permute(0, 2, 3, 1).numpy()


class _TensorFlow:
    """The operations on ``[N, H, W, C]``."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = arrays

    def convolution(self, x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        kernel, bias = _weights(self._arrays, name)
        if name == _LAST:
            return convolution_to_rgb(x, kernel, bias)
        kernel = ungrouped(kernel, x.shape[-1])
        x = mirrored(x, kernel.shape[0] // 2)
        return tf.nn.conv2d(x, kernel, stride, "VALID") + bias

    def relu(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(x)

    def mean(self, x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(x, [1, 2], keepdims=True)

    def moments(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
        return mean, tf.sqrt(variance + _EPSILON)

    def enlarged(self, x: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(x, 2 * tf.shape(x)[1:3])

    def picture(self, x: tf.Tensor, content: tf.Tensor) -> tf.Tensor:
        height, width = tf.unstack(tf.shape(content)[1:3])
        return tf.clip_by_value(x[:, :height, :width], 0.0, 1.0)


class _Torch:
    """The operations on ``[N, C, H, W]``."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        import torch

        self.torch, self._functional = torch, torch.nn.functional
        self._tensors = {
            name: torch.tensor(array.transpose(3, 2, 0, 1) if array.ndim > 1 else array)
            for name, array in arrays.items()
        }

    def convolution(self, x: Any, name: str, stride: int = 1) -> Any:
        kernel, bias = _weights(self._tensors, name)
        x = self._functional.pad(x, [kernel.shape[-1] // 2] * 4, "reflect")
        groups = x.shape[1] // kernel.shape[1]
        return self._functional.conv2d(x, kernel, bias, stride, groups=groups)

    def relu(self, x: Any) -> Any:
        return x.relu_()

    def mean(self, x: Any) -> Any:
        return x.mean((2, 3), keepdim=True)

    def moments(self, x: Any) -> tuple[Any, Any]:
        variance, mean = self.torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        return mean, (variance + _EPSILON).sqrt()

    def enlarged(self, x: Any) -> Any:
        return self._functional.interpolate(x, scale_factor=2, mode="bilinear")

    def picture(self, x: Any, content: Any) -> Any:
        return x[:, :, : content.shape[2], : content.shape[3]].clamp_(0, 1)


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


def _weights(arrays: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    return tuple(arrays[f"{name}.conv_layer/{part}"] for part in ("kernel", "bias"))


def _arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays}


def _batch(picture: Any) -> tf.Tensor:
    picture = tf.convert_to_tensor(picture, tf.float32)
    return tf.reshape(picture, [1, *picture.shape[-3:]])
