"""Which pixels the features of a network see."""

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
