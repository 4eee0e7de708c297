"""What a backbone is, and the parts that backbones are built from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

Weights = Mapping[str, np.ndarray]
"""Arrays by ``layer/kernel`` (HWIO) and ``layer/bias``."""

PREPROCESSING = ("caffe", "torch")
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
TORCH_MEAN_RGB = (0.485, 0.456, 0.406)
TORCH_STD_RGB = (0.229, 0.224, 0.225)

_POOLS = {"max": keras.layers.MaxPooling2D, "avg": keras.layers.AveragePooling2D}
POOLINGS = tuple(_POOLS)


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network with its layer names, its conventions and its published weights.

    Attributes:
      name: The name in ``--backbone``.
      layers: Every accepted layer name with the output of ``build`` (the tap) that it
        stands for. ``relu4_2`` and ``block4_conv2`` stand for the same tap.
      content_layers: The default content layers with their weights.
      style_layers: The default style layers with their weights.
      preprocessing: What the published weights expect: ``caffe`` (BGR, 0-255, mean
        subtracted) or ``torch`` (RGB, 0-1, mean subtracted, divided by the standard
        deviation).
      build: ``build(x, pooling)`` turns preprocessed images ``[N, H, W, 3]`` into all
        taps of the network, ``{name: tensor}``, from shallow to deep.
      published_weights: Returns the weights that ``--weights=imagenet`` stands for.
    """

    name: str
    layers: Mapping[str, str]
    content_layers: Mapping[str, float]
    style_layers: Mapping[str, float]
    preprocessing: str
    build: Callable[[Any, str], dict[str, Any]]
    published_weights: Callable[[], Weights]


def preprocess(images: Any, convention: str) -> Any:
    """Converts RGB pictures in [0, 1] to the input that a network was trained on.

    Args:
      images: Float tensor ``[N, H, W, 3]``, RGB in [0, 1].
      convention: ``caffe`` or ``torch``, see ``Backbone.preprocessing``.

    Returns:
      A tensor of the same shape and dtype.
    """
    if convention == "caffe":
        bgr = keras.ops.flip(images, axis=-1)
        return bgr * 255.0 - np.array(CAFFE_MEAN_BGR, "float32")
    mean, std = np.array(TORCH_MEAN_RGB, "float32"), np.array(TORCH_STD_RGB, "float32")
    return (images - mean) / std


def convolution(x: Any, name: str, filters: int, size: int, padding: str) -> Any:
    """A convolution of stride 1 without activation that keeps height and width.

    Args:
      x: Tensor ``[N, H, W, C]``.
      name: Name of the layer.
      filters: Number of output channels.
      size: Height and width of the kernel, odd.
      padding: ``zero`` or ``reflect``. A mirrored border looks like the picture itself,
        so that ``reflect`` draws no frame around an optimised picture.

    Returns:
      Tensor ``[N, H, W, filters]``.
    """
    mode, dtype = "same", dtype_for(x)
    if padding == "reflect" and size > 1:
        border = size // 2
        width = [[0, 0], [border, border], [border, border], [0, 0]]
        x, mode = keras.ops.pad(x, width, mode="reflect"), "valid"
    return keras.layers.Conv2D(filters, size, padding=mode, dtype=dtype, name=name)(x)


def dtype_for(x: Any) -> str | None:
    """The dtype of a convolution of ``x``; None for that of Keras's policy.

    A picture is convolved in float32 at least. In the 8 bits of bfloat16, a smooth
    picture gets more variance from rounding than it has, and a style's loss comes to
    twice what it could be.
    """
    if x.shape[-1] != 3:
        return None
    return keras.config.dtype_policy().variable_dtype


def pool(x: Any, name: str, pooling: str, size: int = 2) -> Any:
    """Pools windows of ``size`` pixels a side with stride 2, by ``max`` or ``avg``."""
    return _POOLS[pooling](size, 2, name=name)(x)
