"""Writes networks, and the optimiser itself, for other runtimes.

Every export is read back and compared with the Keras network when it is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.extras import import_extra
from tfstyle.files import replaced
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.networks.style_net import StyleNet, load_network, save_network
from tfstyle.optimizers.adam import adam_update
from tfstyle.optimizers.loop import differentiated
from tfstyle.options import EXPORT_FORMATS, EXPORT_PRECISIONS, Options

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
      ``uint8`` (the same in 0 to 255) and ``blend`` (with ``styles``, the weights of
      each style, ``[batch, styles]``).
    * ``keras``: ``.keras``, with all styles.
    * ``litert``: ``.tflite``, one picture at a time, height and width resizable.
    * ``onnx``: ``.onnx``, opset 17, all dynamic.

    Args:
      network: The network.
      path: Where to; a folder for ``savedmodel``.
      format: One of ``EXPORT_FORMATS``.
      style_name: The style or blend that is built in (in SavedModel's ``blend`` and in
        ``keras`` none is); None for the first.
      precision: Of the weights, ``litert`` only: one of ``EXPORT_PRECISIONS``.

    Returns:
      The largest difference from the network's own results, of values in [0, 1].

    Raises:
      UsageError: If the format or the style does not exist, or a library is missing.
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
        return _write_folder(
            _ServedNetwork(network, blend),
            pathlib.Path(path),
            lambda folder: _check_network(
                network, blend, run_saved_model(folder), precision
            ),
        )
    write = {"keras": _write_keras, "litert": _write_litert, "onnx": _write_onnx}
    with replaced(path) as temporary:
        run = write[format](network, blend, temporary, precision)
        return _check_network(network, blend, run, precision)


def export_optimizer(path: str | os.PathLike[str], **options: Any) -> float:
    """Writes the optimisation of Gatys et al. (2016) as a SavedModel, and checks it.

    Its signature ``stylize`` takes ``content`` and ``style``, float32
    ``[1, H, W, 3]`` in [0, 1] of any sizes, ``steps`` (int32), ``content_weight`` and
    ``style_weight`` (float32), and returns ``stylized`` and ``losses``, the total at
    each step. The loop runs in the graph: Adam from the content picture, at one scale,
    what ``stylize(optimizer="adam", scales=1, margin=0, color="free")`` does.

    Args:
      path: A folder; the model is written to ``path/1``.
      **options: The fields of ``tfstyle.Options`` that describe the loss;
        ``precision="auto"`` means ``float32``, for the model may go to other machines.

    Returns:
      The largest difference from the library's own result, of values in [0, 1].

    Raises:
      UsageError: If an option cannot be used.
      TfstyleError: If the folder cannot be written, or the results differ.
    """
    if options.get("precision", "auto") == "auto":
        options["precision"] = "float32"
    module = _ServedOptimizer(Options(**options))
    return _write_folder(
        module, pathlib.Path(path), lambda folder: _check_optimizer(folder, options)
    )


class _ServedNetwork(tf.Module):
    """The signatures of a network's SavedModel."""

    def __init__(self, network: StyleNet, blend: np.ndarray):
        super().__init__()
        self.weights = [variable.value for variable in network.variables]
        run = _portable(network)
        levels = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")
        styles = tf.TensorSpec(
            [None, len(network.style_names)], tf.float32, name="styles"
        )

        def stylize(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"stylized": run(images, blend)}

        def stylize_uint8(images: tf.Tensor) -> dict[str, tf.Tensor]:
            result = run(tf.cast(images, tf.float32) / 255, blend)
            return {"stylized": tf.cast(tf.round(result * 255), tf.uint8)}

        def stylize_blend(images: tf.Tensor, styles: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"stylized": run(images, styles)}

        self.graphs = {
            "serving_default": _graph(stylize, _IMAGES),
            "uint8": _graph(stylize_uint8, levels),
            "blend": _graph(stylize_blend, _IMAGES, styles),
        }


class _ServedOptimizer(tf.Module):
    """The signature of the optimiser's SavedModel."""

    def __init__(self, options: Options):
        super().__init__()
        self._options = options
        # The weights are arguments of the signature.
        self._loss = perceptual_loss(
            dataclasses.replace(options, content_weight=1.0, style_weight=1.0)
        )
        assert isinstance(self._loss.features, FeatureExtractor)
        self.weights = [v.value for v in self._loss.features.model.variables]
        picture = [1, None, None, 3]
        self.graphs = {
            "stylize": _graph(
                self._stylize,
                tf.TensorSpec(picture, tf.float32, "content"),
                tf.TensorSpec(picture, tf.float32, "style"),
                tf.TensorSpec([], tf.int32, "steps"),
                tf.TensorSpec([], tf.float32, "content_weight"),
                tf.TensorSpec([], tf.float32, "style_weight"),
            )
        }

    def _stylize(
        self,
        content: tf.Tensor,
        style: tf.Tensor,
        steps: tf.Tensor,
        content_weight: tf.Tensor,
        style_weight: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        targets = self._loss.targets(content, style)
        weights = {"content": content_weight, "style": style_weight}
        targets = targets._replace(
            scales={
                name: weights.get(name.split("/")[0], 1.0) * scale
                for name, scale in targets.scales.items()
            }
        )
        objective, options = differentiated(self._loss), self._options

        def step(
            i: tf.Tensor,
            x: tf.Tensor,
            momentum: tf.Tensor,
            velocity: tf.Tensor,
            losses: tf.TensorArray,
        ) -> tuple[Any, ...]:
            total, gradient, _ = objective(x, targets)
            done = tf.cast(i, tf.float32) / tf.cast(steps, tf.float32)
            rate = 0.5 * options.learning_rate * (1 + tf.cos(np.pi * done))
            x, momentum, velocity = adam_update(
                x, gradient, momentum, velocity, i + 1, rate, options.beta_2
            )
            x = tf.clip_by_value(x, 0.0, 1.0)
            return i + 1, x, momentum, velocity, losses.write(i, total)

        nothing = tf.zeros_like(content)
        losses = tf.TensorArray(tf.float32, steps, element_shape=[])
        *_, stylized, _, _, losses = tf.while_loop(
            lambda i, *_: i < steps,
            step,
            (0, content, nothing, nothing, losses),
            parallel_iterations=1,
        )
        return {"stylized": stylized, "losses": losses.stack()}


def _graph(function: Callable, *specs: tf.TensorSpec) -> Any:
    return tf.function(function, input_signature=specs, autograph=False)


def _portable(network: StyleNet) -> Callable[..., tf.Tensor]:
    """The network of operations that every runtime has."""

    def run(images: tf.Tensor, blend: tf.Tensor | np.ndarray) -> tf.Tensor:
        norms, blend = network.norms, tf.convert_to_tensor(blend)
        return network.run(
            images, lambda i, x: norms[i].normalized(x, blend, *norms[i].moments(x))
        )

    return run


def _write_folder(
    module: tf.Module, path: pathlib.Path, check: Callable[[pathlib.Path], float]
) -> float:
    """Saves a module as the next version in a folder, once it has been checked."""
    temporary = path / f".tfstyle-{secrets.token_hex(8)}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        tf.saved_model.save(module, str(temporary), module.graphs)
        difference = check(temporary)
        versions = [int(child.name) for child in path.iterdir() if child.name.isdigit()]
        temporary.rename(path / str(max(versions, default=0) + 1))
    except (OSError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TfstyleError(f"{path}: could not be written: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return difference


def run_saved_model(folder: pathlib.Path) -> Run:
    """A version of a SavedModel as a function of pictures."""
    loaded = tf.saved_model.load(str(folder))

    def run(images: np.ndarray) -> np.ndarray:
        # A signature alone would not keep the variables alive.
        serve = loaded.signatures["serving_default"]
        return serve(images=tf.constant(images))["stylized"].numpy()

    return run


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
    module.weights = [variable.value for variable in network.variables]
    graph = _graph(lambda images: {"stylized": run(images, blend)}, picture)
    with _quiet_converter():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [graph.get_concrete_function()], module
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
    graph = _graph(lambda images: {"stylized": run(images, blend)}, _IMAGES)
    with _quiet_converter():
        tf2onnx.convert.from_function(
            graph, input_signature=[_IMAGES], opset=17, output_path=str(path)
        )
    return run_onnx(path)


@contextlib.contextmanager
def _quiet_converter() -> Any:
    """Converters tell the story of every pass."""
    names = ("tensorflow", "tf2onnx")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _check_network(
    network: StyleNet,
    blend: np.ndarray,
    run: Run,
    precision: str,
) -> float:
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
    return _within(difference, TOLERANCES[precision])


def _check_optimizer(folder: pathlib.Path, options: Mapping[str, Any]) -> float:
    from tfstyle.stylizer import stylize

    random = np.random.default_rng(0)
    content, style = (
        np.clip(random.normal(0.5, 0.2, [1, *size, 3]), 0, 1).astype("float32")
        for size in ((64, 72), (80, 64))
    )
    chosen, steps = Options(**options), 4
    loaded = tf.saved_model.load(str(folder))
    found = loaded.signatures["stylize"](
        content=tf.constant(content),
        style=tf.constant(style),
        steps=tf.constant(steps),
        content_weight=tf.constant(chosen.content_weight, tf.float32),
        style_weight=tf.constant(chosen.style_weight, tf.float32),
    )["stylized"].numpy()
    plain = {"optimizer": "adam", "scales": 1, "margin": 0, "color": "free"}
    wanted = stylize(content, style, **{**options, **plain, "steps": steps}).images
    return _within(float(np.abs(found - wanted).max()), TOLERANCES["float32"])


def _within(difference: float, tolerance: float) -> float:
    if not difference <= tolerance:
        raise TfstyleError(
            f"the exported model's results differ from the network's by "
            f"{difference:.4f}, more than {tolerance:.4f}; nothing was written"
        )
    return difference
