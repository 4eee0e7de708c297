"""Puts weights into a network."""

from __future__ import annotations

import re
from collections.abc import Iterable

import keras
import numpy as np

from tfstyle.backbones.base import Weights
from tfstyle.errors import UsageError

_AUTOMATIC_NAME = re.compile(r"conv2d(_\d+)?")


def assign_weights(model: keras.Model, weights: Weights, source: str) -> None:
    """Gives each convolution of a network its kernel and bias.

    Layers are matched by name; ``/`` and ``_`` are the same, because Keras 3 does not
    allow ``/``. If the weights have automatic names only (``conv2d``, ``conv2d_1``),
    layers are matched by their order. Weights of layers that the network does not have
    are ignored, so a network may be cut.

    Args:
      model: The network, functional and not nested.
      weights: Arrays as returned by ``read_weights``.
      source: What messages call the weights, such as the file.

    Raises:
      UsageError: If a layer is missing, or a shape differs. The network is unchanged.
    """
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    names = _names_in([layer.name for layer in layers], weights)
    assignments = []
    for layer in layers:
        for variable in layer.weights:
            key = f"{names.get(layer.name, layer.name)}/{variable.name}"
            array = _checked(key, tuple(variable.shape), weights, layer.name, source)
            assignments.append((variable, array))
    for variable, array in assignments:
        variable.assign(array)


def _names_in(layers: Iterable[str], weights: Weights) -> dict[str, str]:
    """The names that layers have in the weights."""
    given = [key.removesuffix("/kernel") for key in weights if key.endswith("/kernel")]
    if all(_AUTOMATIC_NAME.fullmatch(name) for name in given):
        return dict(zip(layers, given, strict=False))
    return {name.replace("/", "_"): name for name in given}


def _checked(
    key: str, shape: tuple[int, ...], weights: Weights, layer: str, source: str
) -> np.ndarray:
    if key not in weights:
        what = layer if key.endswith("/kernel") else f"bias of {layer}"
        kernels = [name for name in weights if name.endswith("/kernel")]
        last = kernels[-1].removesuffix("/kernel") if kernels else "missing too"
        raise UsageError(
            f"{source}: has no {what} (its last convolution is {last}); "
            "name layers that it has, or give another weights file"
        )
    if weights[key].shape != shape:
        raise UsageError(
            f"{source}: {key} has shape {list(weights[key].shape)}, but {layer} "
            f"needs {list(shape)}; give weights of this network"
        )
    return weights[key]
