"""Writes networks for other runtimes.

Every export is read back and compared with the Keras network when it is made.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from tfstyle.errors import UsageError
from tfstyle.files import replaced
from tfstyle.networks.any_style import AnyStyleNet
from tfstyle.networks.export_any import export_any_style
from tfstyle.networks.formats import (
    CHECKED_SIZES,
    TOLERANCES,
    Run,
    checked_picture,
    graph,
    largest_difference,
    run_litert,
    run_onnx,
    run_saved_model,
    within,
    write_litert,
    write_onnx,
    write_saved_model,
)
from tfstyle.networks.operations import moments
from tfstyle.networks.style_net import StyleNet, load_network, save_network
from tfstyle.options import EXPORT_FORMATS, EXPORT_PRECISIONS

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, "images")


def export_network(
    network: StyleNet | AnyStyleNet,
    path: str | os.PathLike[str],
    format: str = "savedmodel",
    *,
    style_name: str | Mapping[str, float] | None = None,
    part: str = "whole",
    precision: str = "float32",
) -> float:
    """Writes a network in the format of another runtime, and checks it.

    * ``savedmodel``: a folder as TensorFlow Serving wants it, ``path/1``, with the
      signatures ``serving_default`` (``images`` float32 in [0, 1] to ``stylized``),
      ``uint8`` (the same in 0 to 255) and ``blend`` (with ``styles``, the share of
      each style, ``[batch, styles]``). ``keras.layers.TFSMLayer("path/1")`` and
      ``tf.saved_model.load("path/1")`` are functions of ``images``.
    * ``keras``: ``.keras``, with all styles.
    * ``litert``: ``.tflite``, one picture at a time, height and width resizable.
    * ``onnx``: ``.onnx``, opset 17, all dynamic.

    An ``AnyStyleNet`` takes ``content`` and ``style`` and gives ``stylized``, in every
    format. Its SavedModel is called as TF-Hub's module for any style,
    ``module(content, style)[0]``; ``keras.layers.TFSMLayer("path/1")`` takes the list
    of both. Because the code of a style serves any number of pictures, there are parts:
    ``encode`` (``style`` to the tensors of its code) and ``stylize`` (``content`` and
    these tensors to ``stylized``), in a SavedModel as signatures.

    Args:
      network: The network.
      path: Where to write; a folder for ``savedmodel``.
      format: One of ``EXPORT_FORMATS``.
      style_name: The style or blend that is built in; None for the first style. The
        signature ``blend`` and the format ``keras`` have all styles.
      part: Of an ``AnyStyleNet``, as ``litert`` or ``onnx``: one of ``EXPORT_PARTS``.
      precision: Of the weights, ``litert`` only: one of ``EXPORT_PRECISIONS``.

    Returns:
      The largest difference from the network's own results, of values in [0, 1].

    Raises:
      UsageError: If the format, the precision or the style does not exist.
      MissingExtraError: If a library of ``tfstyle[export]`` is not installed.
      TfstyleError: If the file cannot be written, or its results differ.
    """
    if format not in EXPORT_FORMATS:
        raise UsageError(
            f"format={format!r}: choose one of {', '.join(EXPORT_FORMATS)}"
        )
    if precision not in EXPORT_PRECISIONS:
        raise UsageError(
            f"precision={precision!r}: choose one of {', '.join(EXPORT_PRECISIONS)}"
        )
    if precision != "float32" and format != "litert":
        raise UsageError(f"precision={precision}: {format} is written in float32 only")
    if isinstance(network, AnyStyleNet):
        if style_name is not None:
            raise UsageError(
                "style_name: a network for any style has none; its exports take a "
                "picture"
            )
        return export_any_style(network, path, format, part, precision)
    if part != "whole":
        raise UsageError(f"part={part!r}: only a network for any style has parts")
    blend = network.blend(style_name).numpy()  # a constant of the graph, not a capture
    if format == "savedmodel":
        served = _ServedNetwork(network, blend)
        return write_saved_model(
            served,
            served.endpoints,
            pathlib.Path(path),
            lambda folder: _check(network, blend, run_saved_model(folder), precision),
        )
    write = {"keras": _write_keras, "litert": _write_litert, "onnx": _write_onnx}
    with replaced(path) as temporary:
        run = write[format](network, blend, temporary, precision)
        return _check(network, blend, run, precision)


class _ServedNetwork(tf.Module):
    """A network's SavedModel.

    Attributes:
      endpoints: Its signatures by name.
      serve: The network as a function of pictures, under the name that
        ``keras.layers.TFSMLayer`` looks for.
    """

    def __init__(self, network: StyleNet, blend: np.ndarray):
        super().__init__()
        self.weights = [weight.value for weight in network.weights]
        run = _portable(network)
        levels = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")
        styles = tf.TensorSpec(
            [None, len(network.style_names)], tf.float32, name="styles"
        )

        def stylize(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"stylized": self.serve(images)}

        def stylize_uint8(images: tf.Tensor) -> dict[str, tf.Tensor]:
            result = self.serve(tf.cast(images, tf.float32) / 255)
            return {"stylized": tf.cast(tf.round(result * 255), tf.uint8)}

        def stylize_blend(images: tf.Tensor, styles: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"stylized": run(images, styles)}

        self.serve = graph(lambda images: run(images, blend), _IMAGES)
        self.endpoints = {
            "serving_default": graph(stylize, _IMAGES),
            "uint8": graph(stylize_uint8, levels),
            "blend": graph(stylize_blend, _IMAGES, styles),
        }

    @tf.function(input_signature=[_IMAGES], autograph=False)
    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return self.serve(images)


def _portable(network: StyleNet) -> Callable[..., tf.Tensor]:
    """The network of operations that every runtime has."""
    return lambda images, blend: network.with_moments(
        images, tf.convert_to_tensor(blend), lambda i, x: moments(x)
    )


def _write_keras(
    network: StyleNet, blend: np.ndarray, path: pathlib.Path, precision: str
) -> Run:
    save_network(network, path)
    loaded = load_network(path)
    return lambda images: loaded(images, blend).numpy()


def _write_litert(
    network: StyleNet, blend: np.ndarray, path: pathlib.Path, precision: str
) -> Run:
    run = _portable(network)
    picture = tf.TensorSpec([1, None, None, 3], tf.float32, "images")
    traced = graph(lambda images: {"stylized": run(images, blend)}, picture)
    write_litert(network, traced, path, precision)
    return run_litert(path)


def _write_onnx(
    network: StyleNet, blend: np.ndarray, path: pathlib.Path, precision: str
) -> Run:
    run = _portable(network)
    traced = graph(lambda images: {"stylized": run(images, blend)}, _IMAGES)
    write_onnx(traced, path)
    return run_onnx(path)


def _check(network: StyleNet, blend: np.ndarray, run: Run, precision: str) -> float:
    """The largest difference on smooth and noisy pictures of several sizes."""
    random, difference = np.random.default_rng(0), 0.0
    for height, width in CHECKED_SIZES:
        picture = checked_picture(random, height, width)
        wanted = network(picture, blend).numpy()
        difference = max(difference, largest_difference(run(picture), wanted))
    return within(difference, TOLERANCES[precision])
