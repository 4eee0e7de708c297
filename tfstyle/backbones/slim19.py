"""slim19, the compact VGG-19 that is bundled with tfstyle.

Its first five convolutions are VGG-19's own. All but the first are factored into three
of fewer channels (Tucker decomposition, Kim et al. 2016, "Compression of Deep
Convolutional Neural Networks for Fast and Low Power Mobile Applications"): they have
VGG-19's channels and very nearly its features. The deeper ones have 64 and 128
channels; at the style layers among them, a 1×1 convolution with a ReLU (a head)
estimates VGG-19's features in all of its channels, because the Gram matrix of slim
features says much less about a style. All in all it has less than a seventh of VGG-19's
multiply-adds.

``scripts/distil_backbone.py`` makes slim19; ``slim19.json`` beside the weights records
teachers, data, seeds and hours.
"""

from __future__ import annotations

import pathlib
from typing import Any

import keras

from tfstyle.backbones import vgg
from tfstyle.backbones.base import Backbone, convolution
from tfstyle.backbones.weights import read_weights

WEIGHTS = pathlib.Path(__file__).with_name("slim19.npz")
CHANNELS = dict(
    zip(
        vgg.convolutions((2, 2, 4, 4, 1)),
        (64, 64, 128, 128, 256, 64, 64, 64, 128, 128, 128, 128, 128),
        strict=True,
    )
)
FACTORS = {
    "block1_conv2": (24, 20),
    "block2_conv1": (32, 32),
    "block2_conv2": (56, 56),
    "block3_conv1": (72, 88),
}
"""Channels in and out of the 3×3 convolution between two of 1×1."""

WAIST, WAIST_CHANNELS = "block3_waist", 64
"""A 1×1 convolution between VGG-19's own layers and the slim ones."""

HEADS = {"block4_conv1": 512, "block5_conv1": 512}


def head_name(layer: str) -> str:
    """The name of the convolution that estimates VGG-19's features at ``layer``."""
    return f"{layer}_head"


def build(x: Any, pooling: str = "max") -> dict[str, Any]:
    """Builds slim19 and returns all its taps.

    Args:
      x: Images, Keras tensor ``[N, H, W, 3]``, preprocessed as ``torch``.
      pooling: ``max`` or ``avg``; it was trained on both.

    Returns:
      Same as in ``vgg.build``, with VGG-19's channels as far as ``block3_conv1`` and at
      the layers of ``HEADS``, and the slim features at the others.
    """
    taps = vgg.build(x, CHANNELS, pooling, "reflect", _convolution)
    for layer, filters in HEADS.items():
        name = head_name(layer)
        head = convolution(taps[layer], name, filters, 1, "reflect")
        taps[vgg.paper_name("conv", layer)] = head
        taps[layer] = keras.ops.relu(head)
    return taps


def _convolution(x: Any, layer: str, filters: int, size: int, padding: str) -> Any:
    """A convolution, in three parts where ``FACTORS`` says so, or after the waist."""
    if layer == "block3_conv2":
        x = keras.ops.relu(convolution(x, WAIST, WAIST_CHANNELS, 1, padding))
    if layer not in FACTORS:
        return convolution(x, layer, filters, size, padding)
    inner, outer = FACTORS[layer]
    x = convolution(x, f"{layer}_in", inner, 1, padding)
    x = convolution(x, f"{layer}_mid", outer, size, padding)
    return convolution(x, f"{layer}_out", filters, 1, padding)


def _layer_names() -> dict[str, str]:
    built = set(CHANNELS) | {vgg.paper_name("conv", layer) for layer in CHANNELS}
    built |= {f"block{block}_pool" for block in range(1, 6)}
    names = vgg.layer_names(vgg.VGG19_CONVOLUTIONS)
    return {name: tap for name, tap in names.items() if tap in built}


SLIM19 = Backbone(
    name="slim19",
    layers=_layer_names(),
    content_layers={"block4_conv2": 1.0},
    style_layers={f"block{i}_conv1": 1.0 for i in range(1, 6)},
    preprocessing="torch",
    build=build,
    published_weights=lambda: read_weights(WEIGHTS)[0],
)
