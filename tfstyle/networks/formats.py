"""The formats of other runtimes: writing traced functions, and running what is written.

SavedModel, LiteRT and ONNX. The two latter take libraries of ``tfstyle[export]``.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfstyle.errors import TfstyleError, one_line
from tfstyle.extras import import_extra

TOLERANCES = {"float32": 1 / 255, "float16": 4 / 255, "int8": 48 / 255}
"""The largest difference from the Keras network's values, by precision of weights."""

CHECKED_SIZES = ((37, 53), (64, 48))
"""Heights and widths of the pictures on which exports are compared."""

Run = Callable[[np.ndarray], np.ndarray]
"""Gives pictures ``[N, H, W, 3]`` the style that is built in."""

Call = Callable[..., dict[str, np.ndarray]]
"""Takes arrays by name, and gives arrays by name."""


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


def checked_picture(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth and noisy picture ``[1, H, W, 3]``, on which exports are compared."""
    noise = random.uniform(size=[1, height, width, 3])
    ramp = np.linspace(0, 1, width)[:, None]
    return (0.3 * noise + 0.7 * ramp).astype("float32")


def largest_difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference of what an export gives from what it should.

    Raises:
      TfstyleError: If the shapes differ.
    """
    if found.shape != wanted.shape:
        raise TfstyleError(
            f"the exported network makes {found.shape} of {wanted.shape}"
        )
    return float(np.abs(found - wanted).max())


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


def run_saved_model(path: pathlib.Path) -> Run:
    """One version of a SavedModel, such as ``path/1``, as a function of pictures."""
    loaded = tf.saved_model.load(str(path))
    return lambda images: loaded(tf.constant(images)).numpy()


def run_litert(path: pathlib.Path, threads: int | None = None) -> Run:
    """A ``.tflite`` file as a function of pictures; each new size is prepared once."""
    run = call_litert(path, threads)
    return lambda images: run(images=images)["stylized"]


def call_litert(path: pathlib.Path, threads: int | None = None) -> Call:
    """A ``.tflite`` file as a function of its inputs, by name."""
    litert = import_extra("ai_edge_litert.interpreter", "export")
    interpreter = litert.Interpreter(model_path=str(path), num_threads=threads)
    runner = interpreter.get_signature_runner()
    sources, results = (
        {name: detail["index"] for name, detail in details.items()}
        for details in (runner.get_input_details(), runner.get_output_details())
    )
    prepared: dict[str, tuple[int, ...]] = {}

    def run(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        shapes = {name: value.shape for name, value in inputs.items()}
        if prepared != shapes:
            for name, shape in shapes.items():
                interpreter.resize_tensor_input(sources[name], shape)
            interpreter.allocate_tensors()
            prepared.update(shapes)
        for name, value in inputs.items():
            interpreter.set_tensor(sources[name], value)
        interpreter.invoke()
        return {name: interpreter.get_tensor(i) for name, i in results.items()}

    return run


def run_onnx(path: pathlib.Path) -> Run:
    """An ``.onnx`` file as a function of pictures."""
    run = call_onnx(path)
    return lambda images: run(images=images)["stylized"]


def call_onnx(path: pathlib.Path) -> Call:
    """An ``.onnx`` file as a function of its inputs, by name."""
    runtime = import_extra("onnxruntime", "export")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(zip(names, session.run(names, inputs), strict=True))


def write_litert(
    network: keras.Model, traced: Any, path: pathlib.Path, precision: str
) -> None:
    """Writes a traced function of a network as ``.tflite``."""
    module = tf.Module()
    module.weights = [variable.value for variable in network.weights]
    with _quiet_converter():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [traced.get_concrete_function()], module
        )
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        path.write_bytes(converter.convert())


def write_onnx(traced: Any, path: pathlib.Path) -> None:
    """Writes a traced function of tensors as ``.onnx``."""
    tf2onnx = import_extra("tf2onnx", "export")
    with _quiet_converter():
        tf2onnx.convert.from_function(
            traced,
            input_signature=traced.input_signature,
            opset=17,
            output_path=str(path),
        )


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
