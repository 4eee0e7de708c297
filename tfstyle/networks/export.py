"""Writes networks for other runtimes.

Every export is read back and compared with the Keras network when it is made.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.errors import TfstyleError, UsageError, one_line
from tfstyle.extras import import_extra
from tfstyle.files import replaced
from tfstyle.networks.style_net import StyleNet, load_network, save_network
from tfstyle.options import EXPORT_FORMATS, EXPORT_PRECISIONS

TOLERANCES = {"float32": 1 / 255, "float16": 4 / 255, "int8": 48 / 255}
"""The largest difference from the Keras network's values, by precision of weights."""

Run = Callable[[np.ndarray], np.ndarray]
"""Gives pictures ``[N, H, W, 3]`` the style that is built in."""

_CHECKED_SIZES = ((37, 53), (64, 48))
_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, "images")


def export_network(
    network: StyleNet,
    path: str | os.PathLike[str],
    format: str = "savedmodel",
    *,
    style_name: str | Mapping[str, float] | None = None,
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

    Args:
      network: The network.
      path: Where to write; a folder for ``savedmodel``.
      format: One of ``EXPORT_FORMATS``.
      style_name: The style or blend that is built in; None for the first style. The
        signature ``blend`` and the format ``keras`` have all styles.
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


def write_saved_model(
    module: tf.Module,
    signatures: dict[str, Any],
    path: pathlib.Path,
    check: Callable[[pathlib.Path], float],
) -> float:
    """Saves a module as the next version in a folder, if it passes a check.

    Args:
      module: What holds the variables.
      signatures: Functions by the names of their signatures.
      path: The folder, which gets the version as ``path/1``, ``path/2``, …
      check: Takes the folder of the saved version and returns the largest difference
        from what was saved; raises ``TfstyleError`` if that is too much.

    Returns:
      What ``check`` returned.

    Raises:
      TfstyleError: If the folder cannot be written, or ``check`` raises it.
    """
    temporary = path / f".tfstyle-{secrets.token_hex(8)}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        tf.saved_model.save(module, str(temporary), signatures)
        difference = check(temporary)
        versions = [int(child.name) for child in path.iterdir() if child.name.isdigit()]
        temporary.rename(path / str(max(versions, default=0) + 1))
    except (OSError, tf.errors.OpError) as error:
        raise TfstyleError(
            f"{path}: could not be written: {one_line(error)}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return difference


def within(difference: float, tolerance: float) -> float:
    """Refuses an export whose results differ by too much.

    Raises:
      TfstyleError: If it is larger than ``tolerance``, or NaN.
    """
    if not difference <= tolerance:
        raise TfstyleError(
            f"the exported model's results differ from the network's by "
            f"{difference:.4f}, more than {tolerance:.4f}; nothing was written"
        )
    return difference


def graph(function: Callable, *specs: tf.TensorSpec) -> Any:
    """A ``tf.function`` of tensors that is traced once, for these arguments."""
    return tf.function(function, input_signature=specs, autograph=False)


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

    def run(images: tf.Tensor, blend: tf.Tensor | np.ndarray) -> tf.Tensor:
        norms, blend = network.norms, tf.convert_to_tensor(blend)
        return network.run(
            images, lambda i, x: norms[i].normalized(x, blend, *norms[i].moments(x))
        )

    return run


def run_saved_model(path: pathlib.Path) -> Run:
    """One version of a SavedModel, such as ``path/1``, as a function of pictures."""
    loaded = tf.saved_model.load(str(path))
    return lambda images: loaded(tf.constant(images)).numpy()


def run_litert(path: pathlib.Path, threads: int | None = None) -> Run:
    """A ``.tflite`` file as a function of pictures; each new size is prepared once."""
    litert = import_extra("ai_edge_litert.interpreter", "export")
    interpreter = litert.Interpreter(model_path=str(path), num_threads=threads)
    source = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]
    prepared: list[tuple[int, ...]] = [()]

    def run(images: np.ndarray) -> np.ndarray:
        if prepared[0] != images.shape:
            interpreter.resize_tensor_input(source, images.shape)
            interpreter.allocate_tensors()
            prepared[0] = images.shape
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return run


def run_onnx(path: pathlib.Path) -> Run:
    """An ``.onnx`` file as a function of pictures."""
    runtime = import_extra("onnxruntime", "export")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


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
    module = tf.Module()
    module.weights = [variable.value for variable in network.weights]
    traced = graph(lambda images: {"stylized": run(images, blend)}, picture)
    with _quiet_converter():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [traced.get_concrete_function()], module
        )
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        path.write_bytes(converter.convert())
    return run_litert(path)


def _write_onnx(
    network: StyleNet, blend: np.ndarray, path: pathlib.Path, precision: str
) -> Run:
    tf2onnx = import_extra("tf2onnx", "export")
    run = _portable(network)
    traced = graph(lambda images: {"stylized": run(images, blend)}, _IMAGES)
    with _quiet_converter():
        tf2onnx.convert.from_function(
            traced, input_signature=[_IMAGES], opset=17, output_path=str(path)
        )
    return run_onnx(path)


@contextlib.contextmanager
def _quiet_converter() -> Iterator[None]:
    """Silences converters, which log every pass."""
    names = ("tensorflow", "tf2onnx")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _check(network: StyleNet, blend: np.ndarray, run: Run, precision: str) -> float:
    """The largest difference on smooth and noisy pictures of several sizes."""
    random, difference = np.random.default_rng(0), 0.0
    for height, width in _CHECKED_SIZES:
        noise = random.uniform(size=[1, height, width, 3])
        ramp = np.linspace(0, 1, width)[:, None]
        picture = (0.3 * noise + 0.7 * ramp).astype("float32")
        wanted = network(picture, blend).numpy()
        found = run(picture)
        if found.shape != wanted.shape:
            raise TfstyleError(
                f"the exported network makes {found.shape} of {wanted.shape}"
            )
        difference = max(difference, float(np.abs(found - wanted).max()))
    return within(difference, TOLERANCES[precision])
