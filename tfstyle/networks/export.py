"""Writes networks for other runtimes.

Every export is read back and compared with the Keras network when it is made.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.errors import UsageError
from tfstyle.files import replaced
from tfstyle.networks.any_style import AnyStyleNet
from tfstyle.networks.export_any import ServedAnyStyle, any_style_parts
from tfstyle.networks.formats import (
    Part,
    call_saved_model,
    check,
    checked_pictures,
    graph,
    of_arrays,
    write,
    write_saved_model,
)
from tfstyle.networks.operations import moments
from tfstyle.networks.style_net import StyleNet, load_network, save_network
from tfstyle.options import (
    EXPORT_FORMATS,
    EXPORT_PARTS,
    EXPORT_PRECISIONS,
    check_choice,
)

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, "images")


def export_network(
    network: StyleNet | AnyStyleNet,
    path: str | os.PathLike[str],
    format: str = "savedmodel",
    *,
    style_name: str | Mapping[str, float] | None = None,
    part: str = "whole",
    quantize: str = "float32",
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
      quantize: Precision of the weights, ``litert`` only: one of ``EXPORT_PRECISIONS``.

    Returns:
      The largest difference from the network's own results, of values in [0, 1].

    Raises:
      UsageError: If the format, the precision or the style does not exist.
      MissingExtraError: If a library of ``tfstyle[export]`` is not installed.
      TfstyleError: If the file cannot be written, or its results differ.
    """
    check_choice("format", format, EXPORT_FORMATS)
    check_choice("quantize", quantize, EXPORT_PRECISIONS)
    if quantize != "float32" and format != "litert":
        raise UsageError(
            f"quantize={quantize!r}: {format} is written in float32 only; leave it "
            "out, or give format='litert'"
        )
    parts_of: Callable[[Any], dict[str, Part]] = any_style_parts
    served: Callable[[Any, int | None], Any] = ServedAnyStyle
    if isinstance(network, AnyStyleNet):
        if style_name is not None:
            raise UsageError(
                "style_name: a network for any style has none; its exports take a "
                "picture"
            )
        check_choice("part", part, EXPORT_PARTS)
        if part != "whole" and format in ("savedmodel", "keras"):
            raise UsageError(
                f"part={part!r}: {format} has the whole network; leave it out"
            )
    else:
        if part != "whole":
            raise UsageError(f"part={part!r}: only a network for any style has parts")
        blend = network.blend(style_name).numpy()  # constant in the graph, no capture
        parts_of = functools.partial(_parts, blend=blend)
        served = functools.partial(_ServedNetwork, blend=blend)
    parts, name = parts_of(network), "serving_default" if part == "whole" else part
    if format == "keras":
        with replaced(path) as temporary:
            save_network(network, temporary)
            loaded = parts_of(load_network(temporary))[name]
            return check(of_arrays(loaded.function), parts[name], quantize)
    module = served(network, 1 if format == "litert" else None)
    if format == "savedmodel":

        def check_all(saved: pathlib.Path) -> float:
            calls = call_saved_model(saved)
            return max(check(calls[name], parts[name], quantize) for name in parts)

        folder = pathlib.Path(path)
        return write_saved_model(module, module.endpoints, folder, check_all)
    with replaced(path) as temporary:
        traced = module.endpoints[name]
        call = write(network, traced, temporary, format, quantize)
        return check(call, parts[name], quantize)


def _parts(network: StyleNet, blend: np.ndarray) -> dict[str, Part]:
    """The network as its only part, by the name of its signature."""
    examples = [{"images": picture} for picture, _ in checked_pictures()]
    whole = Part(lambda images: {"stylized": network(images, blend)}, examples)
    return {"serving_default": whole}


class _ServedNetwork(tf.Module):
    """A network's SavedModel, whose signatures other formats get one at a time.

    Attributes:
      endpoints: Its signatures by name.
      serve: The network as a function of pictures, under the name that
        ``keras.layers.TFSMLayer`` looks for.
    """

    def __init__(self, network: StyleNet, batch: int | None, blend: np.ndarray):
        super().__init__()
        self.weights = [weight.value for weight in network.weights]
        pictures, levels = (
            tf.TensorSpec([batch, None, None, 3], dtype, "images")
            for dtype in (tf.float32, tf.uint8)
        )
        styles = tf.TensorSpec(
            [batch, len(network.style_names)], tf.float32, name="styles"
        )

        def run(images: tf.Tensor, blend: tf.Tensor) -> tf.Tensor:
            # The moments are of operations that every runtime has.
            return network.with_moments(images, blend, lambda i, x: moments(x))

        def stylize(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"stylized": run(images, tf.constant(blend))}

        def stylize_uint8(images: tf.Tensor) -> dict[str, tf.Tensor]:
            result = self.serve(tf.cast(images, tf.float32) / 255)
            return {"stylized": tf.cast(tf.round(result * 255), tf.uint8)}

        def stylize_blend(images: tf.Tensor, styles: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"stylized": run(images, styles)}

        plain = graph(stylize, pictures)
        self.serve = graph(lambda images: plain(images)["stylized"], pictures)
        self.endpoints = {
            "serving_default": plain,
            "uint8": graph(stylize_uint8, levels),
            "blend": graph(stylize_blend, pictures, styles),
        }

    @tf.function(input_signature=[_IMAGES], autograph=False)
    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return self.serve(images)
