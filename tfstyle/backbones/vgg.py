"""VGG-16 and VGG-19 (Simonyan and Zisserman 2015), as in ``keras.applications``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfstyle.backbones.base import Backbone, Weights, convolution, pool
from tfstyle.backbones.weights import download

VGG16_CONVOLUTIONS = (2, 2, 3, 3, 3)
VGG19_CONVOLUTIONS = (2, 2, 4, 4, 4)
CHANNELS = (64, 128, 256, 512, 512)


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
    """Every accepted layer name with the tap of ``build`` that it means.

    Keras's ``block4_conv2`` and the papers' ``relu4_2`` are the same tap, after the
    ReLU; ``conv4_2`` is before it.
    """
    names = {}
    for layer in convolutions(per_block):
        names[layer] = names[paper_name("relu", layer)] = layer
        names[paper_name("conv", layer)] = paper_name("conv", layer)
    for block in range(1, len(per_block) + 1):
        names[f"block{block}_pool"] = names[f"pool{block}"] = f"block{block}_pool"
    return names


def build(
    x: Any, channels: Mapping[str, int], pooling: str, padding: str = "zero"
) -> dict[str, Any]:
    """Builds a VGG and returns every tap of it.

    Args:
      x: Preprocessed images, Keras tensor ``[N, H, W, 3]``.
      channels: Output channels by convolution, in order of depth.
      pooling: ``max`` as published, or ``avg`` (Gatys et al. 2016, section 2).
      padding: ``zero`` as published, or ``reflect``.

    Returns:
      For each convolution the tap before the ReLU (``conv4_2``) and after it
      (``block4_conv2``), and each block's pool, from shallow to deep.
    """
    taps: dict[str, Any] = {}
    last = list(channels)[-1]
    for layer, filters in channels.items():
        if layer.endswith("conv1") and taps:
            name = f"block{int(layer[5]) - 1}_pool"
            x = taps[name] = pool(x, name, pooling)
        x = taps[paper_name("conv", layer)] = convolution(x, layer, filters, 3, padding)
        x = taps[layer] = keras.ops.relu(x)
    name = f"{last.split('_')[0]}_pool"
    taps[name] = pool(x, name, pooling)
    return taps


def _published(application: str) -> Weights:
    network = getattr(keras.applications, application)
    name = application.lower()
    file = f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    url = "https://storage.googleapis.com/tensorflow/keras-applications"
    model = download(
        lambda: network(include_top=False, weights="imagenet"),
        file,
        f"{url}/{name}/{file}",
    )
    return {
        f"{layer.name}/{part}": np.asarray(array)
        for layer in model.layers
        for part, array in zip(("kernel", "bias"), layer.get_weights(), strict=False)
    }


def _vgg(name: str, per_block: tuple[int, ...]) -> Backbone:
    channels = {layer: CHANNELS[int(layer[5]) - 1] for layer in convolutions(per_block)}
    return Backbone(
        name=name,
        layers=layer_names(per_block),
        content_layers={"block4_conv2": 1.0},
        style_layers={f"block{i}_conv1": 1.0 for i in range(1, 6)},
        preprocessing="caffe",
        build=lambda x, pooling: build(x, channels, pooling),
        published_weights=lambda: _published(name.upper()),
        provenance=f"keras.applications.{name.upper()}, Oxford VGG group, CC BY 4.0",
    )


VGG16 = _vgg("vgg16", VGG16_CONVOLUTIONS)
VGG19 = _vgg("vgg19", VGG19_CONVOLUTIONS)
