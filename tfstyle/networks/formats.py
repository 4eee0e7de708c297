"""The formats of other runtimes: writing traced functions, and running what is written.

SavedModel, LiteRT and ONNX. The two latter take libraries of ``tfstyle[export]``.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfstyle.errors import TfstyleError, one_line
from tfstyle.extras import import_extra

TOLERANCES = {"float32": 1 / 255, "float16": 4 / 255, "int8": 48 / 255}
"""The largest difference from the Keras network's values, by precision of weights."""

Call = Callable[..., dict[str, np.ndarray]]
"""Takes arrays by name, and gives arrays by name."""


class Part(NamedTuple):
    """What a network computes, whole or in part, and inputs to compare it on."""

    function: Callable[..., dict[str, tf.Tensor]]
    """Takes tensors by name, and gives tensors by name."""

    examples: Sequence[dict[str, np.ndarray]]
    """Inputs of the function, in the order of its arguments."""


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


def checked_pictures() -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of smooth and noisy pictures ``[1, H, W, 3]``, to compare exports on."""
    random = np.random.default_rng(0)

    def picture(height: int, width: int) -> np.ndarray:
        noise = random.uniform(size=[1, height, width, 3])
        ramp = np.linspace(0, 1, width)[:, None]
        return (0.3 * noise + 0.7 * ramp).astype("float32")

    return [(picture(h, w), picture(w, h)) for h, w in ((37, 53), (64, 48))]


def check(call: Call, part: Part, precision: str) -> float:
    """Refuses an export whose results differ from the network's by too much.

    Args:
      call: The export.
      part: What it should compute.
      precision: Of its weights.

    Returns:
      The largest difference, of values near 1.

    Raises:
      TfstyleError: If shapes differ, or a value by more than ``TOLERANCES`` has.
    """
    wanted, differences = of_arrays(part.function), []
    for inputs in part.examples:
        results = call(**inputs)
        for name, value in wanted(**inputs).items():
            found = results[name]
            if found.shape != value.shape:
                raise TfstyleError(
                    f"the exported network makes {found.shape} of {value.shape}"
                )
            largest = max(1, np.abs(value).max())
            differences.append(np.abs(found - value).max() / largest)
    # Python's `max` would lose NaN.
    return within(float(np.max(differences)), TOLERANCES[precision])


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


def graph_like(
    function: Callable, inputs: Mapping[str, np.ndarray], batch: int | None
) -> Any:
    """A ``graph`` of inputs like an example's, but of any height and width."""
    specs = [
        tf.TensorSpec([batch, *[None] * (value.ndim - 2), value.shape[-1]], name=name)
        for name, value in inputs.items()
    ]
    return graph(
        lambda *tensors: function(**dict(zip(inputs, tensors, strict=True))), *specs
    )


def of_arrays(function: Callable[..., dict[str, tf.Tensor]]) -> Call:
    """The same function of arrays, by name."""

    def call(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in function(**tensors).items()}

    return call


def call_saved_model(path: pathlib.Path) -> dict[str, Call]:
    """The signatures of one version of a SavedModel, such as ``path/1``, by name."""
    signatures = tf.saved_model.load(str(path)).signatures
    return {name: of_arrays(function) for name, function in signatures.items()}


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


def call_onnx(path: pathlib.Path) -> Call:
    """An ``.onnx`` file as a function of its inputs, by name."""
    runtime = import_extra("onnxruntime", "export")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(zip(names, session.run(names, inputs), strict=True))


def write(
    network: keras.Model, traced: Any, path: pathlib.Path, format: str, precision: str
) -> Call:
    """Writes a ``graph`` of a network as ``litert`` or ``onnx``, and reads it back."""
    if format == "litert":
        _write_litert(network, traced, path, precision)
        return call_litert(path)
    _write_onnx(traced, path)
    return call_onnx(path)


def _write_litert(
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


def _write_onnx(traced: Any, path: pathlib.Path) -> None:
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
