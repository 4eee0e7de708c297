"""What the time of an optimisation step goes to, for ``benchmark.py``."""

from __future__ import annotations

import collections
import math
import pathlib
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfstyle
from tfstyle.losses import PerceptualLoss
from tfstyle.losses.from_options import perceptual_loss

FORWARD, BACKWARD = "convolutions, forward", "convolutions, backward"
KINDS = {
    BACKWARD: r"Conv2DBackprop",
    FORWARD: r"Conv2D",
    "eigendecompositions": r"SelfAdjointEig",
    "other matrix products": r"MatMul|Einsum",
    "pooling": r"Pool",
    "padding": r"Pad",
    "Adam": r"Adam",
    "casts": r"^Cast$",
    "activations": r"Relu",
    "sums": r"^(Sum|Mean|AddN|L2Loss)$|BiasAdd",
    "slices and copies": r"Slice|Concat|Pack|Tile|Transpose|Gather|Reshape|Assign",
}
"""By kind, what the type of an operation contains; the first that fits counts."""
REST = "rest (elementwise)"

_OPERATION = re.compile(r"[^:]+:([A-Za-z_]\w*)")
_CALL = re.compile("While|If|Case|PartitionedCall")  # their operations count
_WARM_REPORTS = 4  # of a run: the first traces, and the next have few steps per call


def matmul_gflops(side: int = 4096, tries: int = 5, dtype: str = "float32") -> float:
    """The most that ``tf.matmul`` reaches here, in GFLOP/s."""
    a, b = tf.cast(tf.random.stateless_uniform([2, side, side], [0, 0]), dtype)
    seconds = []
    for _ in range(tries + 1):
        began = time.perf_counter()
        tf.matmul(a, b)[0, 0].numpy()
        seconds.append(time.perf_counter() - began)
    return 2e-9 * side**3 / min(seconds[1:])


def convolution_macs(model: keras.Model, height: int, width: int) -> int:
    """Multiply-adds of the convolutions of a model for one picture."""
    layers = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    outputs = keras.Model(model.inputs, [layer.output for layer in layers])
    shapes = outputs.compute_output_shape((1, height, width, 3))
    return sum(
        math.prod(layer.kernel.shape) * math.prod(shape[1:3])
        for layer, shape in zip(layers, shapes, strict=True)
    )


def step_gflop(loss: PerceptualLoss, height: int, width: int) -> float:
    """Of a step: convolutions and Gram products, forward and for the gradient."""
    macs = convolution_macs(loss.features.model, height, width)
    shapes = loss.features.shapes(height, width)
    for layer in loss.style_layers:
        rows, columns, channels = shapes[layer]
        macs += rows * columns * channels**2
    return 4e-9 * macs


def profile(
    content: np.ndarray, style: np.ndarray, steps: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Traces some steps of a run at one scale.

    Operations run side by side, so their times add up to more than the step's: each
    kind gets its share of the step.

    Args:
      content: ``[1, H, W, 3]`` in [0, 1].
      style: Likewise.
      steps: How many steps to trace, at least.
      options: Options of ``tfstyle.Stylizer``.

    Returns:
      A row of the table: seconds per step by kind, and in all; the work of a step in
      GFLOP, that of its convolutions, and the peak of a matrix product.
    """
    given = {"size": max(content.shape), "scales": 1, "steps": 100_000, **options}
    with tempfile.TemporaryDirectory() as folder:
        tracer = _Tracer(folder, steps)
        tfstyle.Stylizer(**given)(content, style, callbacks=[tracer])
        operations = list(_operations(pathlib.Path(folder)))
    loss = perceptual_loss(tfstyle.Options(**given))
    margin = 2 * tfstyle.Options(**given).margin
    height, width = (side + margin for side in content.shape[1:3])
    convolutions = convolution_macs(loss.features.model, height, width)
    dtype = loss.features.dtype
    return {
        "kinds": by_kind(operations, tracer.seconds_per_step),
        "seconds_per_step": tracer.seconds_per_step,
        "gflop": step_gflop(loss, height, width),
        "convolution_gflop": 4e-9 * convolutions,
        "dtype": dtype,
        "peak_gflops": matmul_gflops(dtype=dtype),
    }


class _Tracer:
    """A callback that traces what follows the first reports, and ends the run."""

    def __init__(self, folder: str, steps: int):
        self._folder, self._steps, self._reports = folder, steps, 0
        self._first, self._began = 0, 0.0
        self.seconds_per_step = math.nan

    def __call__(self, progress: Any) -> bool:
        self._reports += 1
        if self._reports < _WARM_REPORTS:
            return False
        if self._reports == _WARM_REPORTS:
            tf.profiler.experimental.start(self._folder)
            self._first, self._began = progress.step, time.perf_counter()
            return False
        if (done := progress.step - self._first) < self._steps:
            return False
        self.seconds_per_step = (time.perf_counter() - self._began) / done
        tf.profiler.experimental.stop()
        return True


def by_kind(
    operations: Iterable[tuple[str, float]], seconds_per_step: float
) -> dict[str, float]:
    """Seconds per step by kind of operation, the largest first.

    Args:
      operations: Types of operations with the seconds of each.
      seconds_per_step: What all of them together are said to take.
    """
    found: collections.Counter[str] = collections.Counter()
    for operation, seconds in operations:
        fits = (kind for kind, type_ in KINDS.items() if re.search(type_, operation))
        found[next(fits, REST)] += seconds
    total = sum(found.values())
    return {kind: seconds_per_step * x / total for kind, x in found.most_common()}


def _operations(folder: pathlib.Path) -> Iterator[tuple[str, float]]:
    """Types of the operations of a trace with the seconds of each."""
    # TensorFlow has no public reader of what its public profiler writes.
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    for path in folder.rglob("*.xplane.pb"):
        space = XSpace.FromString(path.read_bytes())
        for plane in space.planes:
            for line in plane.lines:
                names = (plane.event_metadata[e.metadata_id].name for e in line.events)
                for event, name in zip(line.events, names, strict=True):
                    found = _OPERATION.fullmatch(name)
                    if found and not _CALL.search(found[1]):
                        yield found[1], event.duration_ps * 1e-12
