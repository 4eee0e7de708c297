"""VGG-16 and VGG-19 (Simonyan and Zisserman 2015), as in ``keras.applications``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfstyle.backbones.base import Backbone, convolution, pool
from tfstyle.backbones.weights import read_weights
from tfstyle.backbones.weights_download import download

VGG16_CONVOLUTIONS = (2, 2, 3, 3, 3)
VGG19_CONVOLUTIONS = (2, 2, 4, 4, 4)
CHANNELS = (64, 128, 256, 512, 512)
# Of the Oxford VGG group, CC BY 4.0.
URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/{name}/"
    "{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
MD5 = {
    "vgg16": "6d6bbae143d832006294945121d1f1fc",
    "vgg19": "253f8cb515780f3b799900260a226db6",
}


def convolutions(per_block: tuple[int, ...]) -> list[str]:
    """Keras's names of the convolutions, ``block1_conv1`` first."""
    return [
        f"block{block}_conv{i}"
        for block, count in enumerate(per_block, 1)
        for i in range(1, count + 1)
    ]


def paper_name(kind: str, layer: str) -> str:
    """The papers' name of a Keras layer: ``relu4_2`` or ``conv4_2``, ``pool4``."""
    block, position = layer.removeprefix("block").split("_")
    number = position.removeprefix("conv").removeprefix("pool")
    return f"{kind}{block}_{number}" if number else f"{kind}{block}"


def layer_names(per_block: tuple[int, ...]) -> dict[str, str]:
    """Every accepted layer name with the tap of ``build`` that it stands for.

    Keras's ``block4_conv2`` and the papers' ``relu4_2`` are the same tap, after the
    ReLU; ``conv4_2`` is the one before it.
    """
    names = {}
    for layer in convolutions(per_block):
        names[layer] = names[paper_name("relu", layer)] = layer
        names[paper_name("conv", layer)] = paper_name("conv", layer)
    for block in range(1, len(per_block) + 1):
        names[f"block{block}_pool"] = names[f"pool{block}"] = f"block{block}_pool"
    return names


def build(
    x: Any,
    channels: Mapping[str, int],
    pooling: str,
    padding: str = "zero",
    convolve: Callable[[Any, str, int, int, str], Any] = convolution,
) -> dict[str, Any]:
    """Builds a VGG and returns all its taps.

    Args:
      x: Preprocessed images, Keras tensor ``[N, H, W, 3]``.
      channels: Output channels by convolution, in order of depth.
      pooling: ``max`` as published, or ``avg`` (Gatys et al. 2016, section 2).
      padding: ``zero`` as published, or ``reflect``.
      convolve: Builds a convolution; takes the arguments of ``base.convolution``.

    Returns:
      From shallow to deep: for each convolution the tap before the ReLU (``conv4_2``)
      and after it (``block4_conv2``), and the pool of each block.
    """
    taps: dict[str, Any] = {}
    last = list(channels)[-1]
    for layer, filters in channels.items():
        if layer.endswith("conv1") and taps:
            name = f"block{int(layer[5]) - 1}_pool"
            x = taps[name] = pool(x, name, pooling)
        x = taps[paper_name("conv", layer)] = convolve(x, layer, filters, 3, padding)
        x = taps[layer] = keras.ops.relu(x)
    name = f"{last.split('_')[0]}_pool"
    taps[name] = pool(x, name, pooling)
    return taps


def _vgg(name: str, per_block: tuple[int, ...]) -> Backbone:
    channels = {layer: CHANNELS[int(layer[5]) - 1] for layer in convolutions(per_block)}
    url = URL.format(name=name)
    return Backbone(
        name=name,
        layers=layer_names(per_block),
        content_layers={"block4_conv2": 1.0},
        style_layers={f"block{i}_conv1": 1.0 for i in range(1, 6)},
        preprocessing="caffe",
        build=lambda x, pooling: build(x, channels, pooling),
        published_weights=lambda: read_weights(download(url, MD5[name]))[0],
    )


VGG16 = _vgg("vgg16", VGG16_CONVOLUTIONS)
VGG19 = _vgg("vgg19", VGG19_CONVOLUTIONS)
