"""Writes a network for any style for other runtimes, whole or in two parts."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.errors import UsageError
from tfstyle.files import replaced
from tfstyle.networks.any_style import AnyStyleNet
from tfstyle.networks.formats import (
    CHECKED_SIZES,
    TOLERANCES,
    Call,
    call_litert,
    call_onnx,
    checked_picture,
    graph,
    largest_difference,
    within,
    write_litert,
    write_onnx,
    write_saved_model,
)
from tfstyle.networks.style_net import load_network, save_network
from tfstyle.options import EXPORT_PARTS


def export_any_style(
    network: AnyStyleNet,
    path: str | os.PathLike[str],
    format: str,
    part: str = "whole",
    precision: str = "float32",
) -> float:
    """Writes a network for any style, and checks it; see ``export_network``.

    Raises:
      UsageError: If there is no such part, or the format has no parts.
      MissingExtraError: If a library of ``tfstyle[export]`` is not installed.
      TfstyleError: If the file cannot be written, or its results differ.
    """
    if part not in EXPORT_PARTS:
        raise UsageError(f"part={part!r}: choose one of {', '.join(EXPORT_PARTS)}")
    if part != "whole" and format in ("savedmodel", "keras"):
        raise UsageError(f"part={part!r}: {format} has the whole network; leave it out")
    if format == "savedmodel":
        served = _ServedNetwork(network)
        return write_saved_model(
            served,
            served.endpoints,
            pathlib.Path(path),
            lambda folder: _check_saved_model(network, folder),
        )
    with replaced(path) as temporary:
        if format == "keras":
            save_network(network, temporary)
            loaded = _parts(load_network(temporary))["whole"]
            return _check(network, part, _of_arrays(loaded))
        batch = 1 if format == "litert" else None
        traced = _parts(network, batch)[part]
        if format == "litert":
            write_litert(network, traced, temporary, precision)
            call = call_litert(temporary)
        else:
            write_onnx(traced, temporary)
            call = call_onnx(temporary)
        return _check(network, part, call, TOLERANCES[precision])


def _parts(network: AnyStyleNet, batch: int | None = None) -> dict[str, Any]:
    """The parts of a network as traced functions of tensors by name."""
    shapes = {
        name: tf.TensorSpec([batch, *value.shape[1:]], name=name)
        for name, value in network.code(np.zeros([1, 16, 16, 3], "float32")).items()
    }
    content, style = (
        tf.TensorSpec([batch, None, None, 3], name=name)
        for name in ("content", "style")
    )

    def whole(content: tf.Tensor, style: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"stylized": network(content, network.code(style))}

    def stylize(content: tf.Tensor, *code: tf.Tensor) -> dict[str, tf.Tensor]:
        named = dict(zip(shapes, code, strict=True))
        return {"stylized": network(content, named)}

    return {
        "whole": graph(whole, content, style),
        "encode": graph(lambda style: dict(network.code(style)), style),
        "stylize": graph(stylize, content, *shapes.values()),
    }


class _ServedNetwork(tf.Module):
    """A network's SavedModel.

    Attributes:
      endpoints: Its signatures by name.
    """

    def __init__(self, network: AnyStyleNet):
        super().__init__()
        self.weights = [weight.value for weight in network.weights]
        parts = _parts(network)
        self._whole = parts["whole"]
        self.endpoints = {
            "serving_default": parts["whole"],
            "encode": parts["encode"],
            "stylize": parts["stylize"],
        }
        # `keras.layers.TFSMLayer` looks for this name, and gives one argument.
        pictures = [tf.TensorSpec([None, None, None, 3]) for _ in range(2)]
        self.serve = tf.function(
            lambda inputs: self._whole(*inputs)["stylized"],
            input_signature=[pictures],
            autograph=False,
        )

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, 3])] * 2, autograph=False
    )
    def __call__(self, content: tf.Tensor, style: tf.Tensor) -> list[tf.Tensor]:
        return [self._whole(content, style)["stylized"]]


def _check_saved_model(network: AnyStyleNet, folder: pathlib.Path) -> float:
    signatures = tf.saved_model.load(str(folder)).signatures
    names = {"whole": "serving_default", "encode": "encode", "stylize": "stylize"}
    return max(
        _check(network, part, _of_arrays(signatures[name]))
        for part, name in names.items()
    )


def _of_arrays(function: Callable[..., dict[str, tf.Tensor]]) -> Call:
    """The same function of arrays, by name."""

    def call(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in function(**tensors).items()}

    return call


def _check(
    network: AnyStyleNet,
    part: str,
    call: Call,
    tolerance: float = TOLERANCES["float32"],
) -> float:
    """The largest difference of a part from the network's own, of values near 1."""
    random, difference = np.random.default_rng(0), 0.0
    for size in CHECKED_SIZES:
        content, style = (
            checked_picture(random, *shape) for shape in (size, size[::-1])
        )
        code = {name: np.array(value) for name, value in network.code(style).items()}
        inputs: dict[str, np.ndarray] = {
            "whole": {"content": content, "style": style},
            "encode": {"style": style},
            "stylize": {"content": content, **code},
        }[part]
        picture = {"stylized": np.array(network(content, code))}
        wanted, found = code if part == "encode" else picture, call(**inputs)
        for name, value in wanted.items():
            largest = max(1.0, float(np.abs(value).max()))
            apart = largest_difference(found[name], value) / largest
            difference = max(difference, apart)
    return within(difference, tolerance)
