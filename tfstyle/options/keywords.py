"""The keywords of ``stylize`` and ``Stylizer`` for type checkers and editors.

A test compares them with ``Options``, where defaults, ranges and help stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from tfstyle.options.fields import Layers, Path
from tfstyle.options.options import (
    BackboneName,
    Color,
    Normalization,
    Precision,
    StyleLoss,
)


class StylizeKeywords(TypedDict, total=False):
    """Every option of a run; see ``tfstyle.Options``."""

    backbone: BackboneName
    weights: Path
    precision: Precision
    jit_compile: bool
    pooling: Literal["max", "avg"]
    preprocessing: Literal["caffe", "torch"] | None
    content_weight: float
    content_layers: Layers
    laplacian_weight: float
    style_loss: StyleLoss
    style_weight: float
    style_layers: Layers
    tv_weight: float
    normalization: Normalization
    seed: int
    size: int
    allow_upscale: bool
    max_memory: float
    size_of: Literal["longest", "shortest"]
    style_scale: Sequence[float]
    style_size: int
    color: Color
    color_strength: float
    steps: Sequence[int] | int
    scales: int
    init: Path
    margin: int
    optimizer: Literal["auto", "adam", "lbfgs"]
    learning_rate: float
    history: int
    schedule: Literal["constant", "cosine", "exponential", "piecewise"]
    final_learning_rate: float
    decay_step: int
    beta_2: float
    space: Literal["rgb", "normalized"]
    clamp: Sequence[float]
    clamp_until: int
    stop_at: int
