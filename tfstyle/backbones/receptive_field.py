"""Which pixels the features of a network see, and how many it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfstyle.images.tiles import Field


def receptive_fields(model: keras.Model) -> dict[int, tuple[Any, Field]]:
    """The receptive field of every tensor of a model.

    Fields are the same across and down.

    Args:
      model: Functional model of one input that consists of convolutions, pools,
        paddings and operations on single positions.

    Returns:
      ``(tensor, field)`` by the ``id`` of the tensor, from shallow to deep.

    Raises:
      ValueError: If a convolution or pool of stride above 1 pads its input.
    """
    image = model.inputs[0]
    fields = {id(image): (image, Field())}
    for operation in model.operations:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        inputs = keras.tree.flatten(operation.input)
        field = _union([fields[id(x)][1] for x in inputs])
        for output in keras.tree.flatten(operation.output):
            fields[id(output)] = output, _field_after(operation, field)
    return fields


def least_side(model: keras.Model) -> int:
    """The shortest side of a picture for which every output has a feature.

    Args:
      model: Same as in ``receptive_fields``.

    Returns:
      The side in pixels, at least 1.
    """
    needed = dict.fromkeys(map(id, keras.tree.flatten(model.output)), 1)
    for operation in reversed(model.operations):
        outputs = keras.tree.flatten(operation.output)
        length = max(needed.get(id(output), 1) for output in outputs)
        for x in keras.tree.flatten(operation.input):
            before = _length_before(operation, length)
            needed[id(x)] = max(needed.get(id(x), 1), before)
    return needed[id(model.inputs[0])]


def _length_before(operation: Any, length: int) -> int:
    """How long an input must be for an output to have a length."""
    if (width := getattr(operation, "pad_width", None)) is not None:
        added = width[1][0]
        return max(length - 2 * added, added + 1)  # a border mirrors what lies inside
    size = getattr(operation, "kernel_size", getattr(operation, "pool_size", None))
    if size is None or operation.padding == "same":
        return length
    return (length - 1) * operation.strides[0] + size[0]


def _union(fields: Sequence[Field]) -> Field:
    """What features that are computed from several tensors of one stride see."""
    return Field(
        fields[0].stride,
        max(field.before for field in fields),
        max(field.after for field in fields),
    )


def _field_after(operation: Any, field: Field) -> Field:
    if (width := getattr(operation, "pad_width", None)) is not None:
        return field.windowed(1, 1, width[1][0])
    size = getattr(operation, "kernel_size", getattr(operation, "pool_size", None))
    if size is None:
        return field
    stride, padded = operation.strides[0], operation.padding == "same"
    if padded and stride > 1:
        raise ValueError(f"{operation.name}: strides with padding cannot be tiled")
    return field.windowed(size[0], stride, size[0] // 2 if padded else 0)
