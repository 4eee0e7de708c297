"""slim19, the compact VGG-19 that is bundled with tfstyle.

It is a VGG-19 with fewer channels and an eighth of the multiply-adds. At each style
layer, a 1×1 convolution with a ReLU (a head) estimates VGG-19's features from the slim
ones, in all of VGG-19's channels, because the Gram matrix of the slim features says
much less about a style. The head of the first layer is VGG-19's own first convolution,
which is cheap with three input channels.

``scripts/distil_backbone.py`` trains slim19; ``slim19.json`` beside the weights records
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
        (16, 32, 48, 48, 96, 64, 64, 64, 128, 128, 128, 128, 128),
        strict=True,
    )
)
HEADS = {
    "block1_conv1": 64,
    "block1_conv2": 64,
    "block2_conv1": 128,
    "block2_conv2": 128,
    "block3_conv1": 256,
    "block4_conv1": 512,
    "block5_conv1": 512,
}


def head_name(layer: str) -> str:
    """The name of the convolution that estimates VGG-19's features at ``layer``."""
    return f"{layer}_head"


def build(x: Any, pooling: str = "max") -> dict[str, Any]:
    """Builds slim19 and returns all its taps.

    Args:
      x: Images, Keras tensor ``[N, H, W, 3]``, preprocessed as ``torch``.
      pooling: ``max`` as trained, or ``avg``.

    Returns:
      Same as in ``vgg.build``, with the estimates of VGG-19's features at the layers of
      ``HEADS`` and the slim features at the others.
    """
    taps = vgg.build(x, CHANNELS, pooling, padding="reflect")
    for layer, channels in HEADS.items():
        first = layer == "block1_conv1"
        source, size = (x, 3) if first else (taps[layer], 1)
        head = convolution(source, head_name(layer), channels, size, "reflect")
        taps[vgg.paper_name("conv", layer)] = head
        taps[layer] = keras.ops.relu(head)
    return taps


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
