"""The options of a run: each default and each help text stands here, once.

The recipes take them as keywords and the command line makes a flag of each. This module
does not import TensorFlow, so that ``tfstyle --help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tfstyle.backbones import NAMES as BACKBONES
from tfstyle.errors import UsageError
from tfstyle.images.color import MATCHINGS

Layers = Mapping[str, float] | Sequence[str] | None
CHOICES: dict[str, tuple[str, ...]] = {
    "backbone": BACKBONES,
    "pooling": ("max", "avg"),
    "preprocessing": ("caffe", "torch"),
    "normalization": ("relative", "sum", "gatys", "mean"),
    "optimizer": ("auto", "adam", "lbfgs"),
    "schedule": ("constant", "cosine", "exponential", "piecewise"),
    "space": ("rgb", "normalized"),
    "size_of": ("longest", "shortest"),
    "precision": ("auto", "float32", "bfloat16"),
    "color": ("style", "content", "match", "free"),
    "color_matching": MATCHINGS,
}

APPLY_COLORS = ("style", "content")
"""Whose colours a trained style can leave a picture."""

EXPORT_FORMATS = {
    "savedmodel": None,
    "keras": ".keras",
    "litert": ".tflite",
    "onnx": ".onnx",
}
"""The extension of each format that a network is exported in; None for a folder."""
EXPORT_PRECISIONS = ("float32", "float16", "int8")

_CONTENT_WEIGHTS = ("content_weight", "laplacian_weight")


def _option(default: Any, help_text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help_text})


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """What can be chosen about a loss, whether a picture or a network is optimised.

    Raises:
      UsageError: A value is not one that its option can have.
    """

    backbone: str = _option("slim19", "Feature network.")
    weights: str | os.PathLike[str] = _option(
        "imagenet",
        "Weights of the backbone: 'imagenet' (bundled for slim19, fetched once for the "
        "others) or a file .h5, .weights.h5 or .npz.",
    )
    preprocessing: str | None = _option(
        None, "Convention of a weights file that does not follow the published one."
    )
    pooling: str = _option("max", "How the backbone pools.")
    content_layers: Layers = _option(
        None,
        "Content layers as name:weight,... ('block4_conv2', 'relu4_2'; 'conv4_2' is "
        "before the ReLU). Default: the backbone's own.",
    )
    style_layers: Layers = _option(
        None, "Style layers as name:weight,... Default: the backbone's own."
    )
    content_weight: float = _option(0.05, "Weight of the content loss.")
    style_weight: float = _option(1.0, "Weight of the style loss.")
    tv_weight: float = _option(0.5, "Weight of the total variation.")
    laplacian_weight: float = _option(
        0.0, "Weight of the content picture's edges: its Laplacian, four times reduced."
    )
    normalization: str = _option(
        "relative", "Convention of the losses: 'relative' has no unit, see the README."
    )
    seed: int = _option(0, "Seed of all random numbers.")
    precision: str = _option(
        "auto",
        "Precision of the backbone; losses and picture are in float32. 'auto' is "
        "'bfloat16' on CPUs that multiply it, up to twice as fast, and 'float32' where "
        "its rounding hides what is left to gain.",
    )
    jit_compile: bool = _option(
        False,
        "Compile the backbone with XLA, for GPUs; a run may then not repeat bit for "
        "bit.",
    )

    def __post_init__(self) -> None:
        """Checks every value that can be checked without reading a file."""
        for name, choices in CHOICES.items():
            value = getattr(self, name, choices[0])
            if value not in choices and (value, name) != (None, "preprocessing"):
                raise UsageError(
                    f"{name}={value!r}: choose one of {', '.join(choices)}"
                )
        for name in (*_CONTENT_WEIGHTS, "style_weight", "tv_weight"):
            valid = 0 <= getattr(self, name) < math.inf
            self._check(name, valid, "a number of at least 0")
        self._check("seed", self.seed >= 0, "a whole number of at least 0")
        if not (self.needs_content or self.needs_style):
            raise UsageError(
                "content_weight and style_weight are both 0: give one of them"
            )

    @property
    def needs_content(self) -> bool:
        """Whether any weight is about the content picture."""
        return any(getattr(self, name) for name in _CONTENT_WEIGHTS)

    @property
    def needs_style(self) -> bool:
        """Whether any weight is about the style picture."""
        return bool(self.style_weight)

    def _check(self, name: str, valid: bool, wanted: str) -> None:
        if not valid:
            raise UsageError(f"{name}={getattr(self, name)!r}: give {wanted}")


@dataclasses.dataclass(frozen=True)
class Options(LossOptions):
    """Everything that can be chosen about a run, beside its pictures.

    Raises:
      UsageError: A value is not one that its option can have.
    """

    optimizer: str = _option(
        "auto",
        "Adam; L-BFGS with strong-Wolfe line search, which comes to a lower loss in "
        "fewer steps; or 'auto': L-BFGS where max_memory allows, else Adam.",
    )
    learning_rate: float = _option(
        0.03, "First learning rate of Adam; length of the first step of L-BFGS."
    )
    schedule: str = _option("cosine", "How the rate goes to final_learning_rate.")
    final_learning_rate: float = _option(0.0, "Last learning rate of Adam.")
    decay_step: int = _option(
        0, "With the piecewise schedule, the step at which the rate drops."
    )
    beta_2: float = _option(0.99, "Adam's decay of the second moment.")
    history: int = _option(20, "Pairs of vectors that L-BFGS remembers at most.")
    steps: int | Sequence[int] = _option(
        (100, 60, 40),
        "Evaluations of the loss at each scale, coarse to fine; the last number also "
        "stands for all further scales.",
    )
    scales: int = _option(
        0, "Number of scales, each half as large as the next; 0: by min_scale_size."
    )
    min_scale_size: int = _option(
        112, "Longest side in pixels below which no coarser scale is added."
    )
    margin: int = _option(
        16,
        "Pixels of mirrored border that are optimised too at each scale and cut off "
        "after it: colours gather at the border, where fewer features see them.",
    )
    init: str | os.PathLike[str] = _option(
        "content", "First picture: content, style, noise (uniform), normal, or a file."
    )
    noise: float = _option(
        1.0, "Share of noise in a noise start; the rest is mid-grey."
    )
    size: int = _option(512, "Side of the result in pixels.")
    size_of: str = _option("longest", "Which side 'size' and 'style_size' mean.")
    style_size: int = _option(0, "Side of the style picture in pixels; 0: as 'size'.")
    style_scale: Sequence[float] = _option(
        (1.0,),
        "Size of the style's strokes, as a multiple of what style_size makes it; one "
        "for all styles, or one for each.",
    )
    allow_upscale: bool = _option(False, "Enlarge pictures that are smaller than size.")
    color: str = _option(
        "style",
        "Whose colours: 'style' gives the content picture the style's first; 'content' "
        "keeps the content's, and only luminance is stylized; 'match' gives the style "
        "picture the content's first; 'free' changes neither.",
    )
    color_strength: float = _option(1.0, "How much of that, from 0 to 1.")
    color_matching: str = _option(
        "pca",
        "How colours are given: by the symmetric root of covariance or Cholesky's.",
    )
    space: str = _option(
        "rgb",
        "What is optimised: RGB in [0, 1], or RGB normalized by ImageNet's mean and "
        "deviation; clamp, learning rate and total variation are in its units.",
    )
    clamp: Sequence[float] = _option(
        (0.0, 1.0), "Lowest and highest value while optimising; empty for none."
    )
    clamp_until: int = _option(
        0, "With Adam, step after which nothing is clamped; 0: never."
    )
    max_memory: float = _option(
        0.0,
        "Gigabytes of memory that a run may take; beyond them a picture is computed "
        "tile by tile, with the same result. 0: a safe share of what there is.",
    )

    def __post_init__(self) -> None:
        """Checks every value that can be checked without reading a file."""
        super().__post_init__()
        for name in ("final_learning_rate", "max_memory"):
            valid = 0 <= getattr(self, name) < math.inf
            self._check(name, valid, "a number of at least 0")
        valid = 0 < self.learning_rate < math.inf
        self._check("learning_rate", valid, "a number above 0")
        self._check("beta_2", 0 <= self.beta_2 < 1, "a number from 0 to below 1")
        for name in ("size", "min_scale_size", "history"):
            self._check(name, getattr(self, name) >= 1, "a whole number of at least 1")
        for name in ("scales", "style_size", "clamp_until", "decay_step", "margin"):
            self._check(name, getattr(self, name) >= 0, "a whole number of at least 0")
        self._check("steps", bool(self._all_steps), "at least one number")
        valid = min(self._all_steps) >= 1
        self._check("steps", valid, "whole numbers of at least 1")
        for name in ("noise", "color_strength"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        valid = all(0.05 <= scale <= 20 for scale in self.style_scale)
        valid = valid and bool(self.style_scale)
        self._check("style_scale", valid, "numbers from 0.05 to 20")
        in_order = len(self.clamp) == 2 and self.clamp[0] < self.clamp[1]
        self._check("clamp", in_order or not self.clamp, "low,high in rising order")

    def steps_per_scale(self, scales: int) -> tuple[int, ...]:
        """Evaluations at each of ``scales`` scales, coarse to fine."""
        steps = self._all_steps
        return (*steps, *[steps[-1]] * (scales - len(steps)))[:scales]

    @property
    def _all_steps(self) -> tuple[int, ...]:
        return (self.steps,) if isinstance(self.steps, int) else tuple(self.steps)


@dataclasses.dataclass(frozen=True)
class TrainingOptions(LossOptions):
    """Everything that can be chosen about the training of a feed-forward network.

    Raises:
      UsageError: A value is not one that its option can have.
    """

    recolor: bool = _option(
        True,
        "Give each photograph the mean and covariance of its style picture's colours "
        "first, so that content and style do not contend for colours.",
    )
    size: int = _option(256, "Side in pixels of the crops of photographs.")
    style_size: int = _option(
        256, "Longest side of the style pictures in pixels: the scale of strokes."
    )
    batch_size: int = _option(4, "Crops per step, over all devices and machines.")
    steps: int = _option(20000, "Steps of the run.")
    learning_rate: float = _option(0.001, "First learning rate of Adam.")
    final_learning_rate: float = _option(
        0.0001, "Last learning rate; a cosine leads to it."
    )
    warmup_steps: int = _option(
        200,
        "Steps in which the rate rises to the first one; without, large first steps "
        "leave parts of the pictures black for good.",
    )
    ema: float = _option(
        0.998, "Decay of the running mean of the weights that is kept; 0: none."
    )
    width: int = _option(
        32, "Channels of the network's first convolution; Johnson et al. have 32."
    )
    blocks: int = _option(5, "Residual blocks of the network.")
    sample_steps: Sequence[int] = _option(
        (100, 300, 1000, 3000, 10000, 30000),
        "Steps at which the test photographs are stylized, beside the last.",
    )
    checkpoint_every: int = _option(500, "Steps between checkpoints.")

    def __post_init__(self) -> None:
        """Checks every value that can be checked without reading a file."""
        super().__post_init__()
        self._check("size", self.size >= 32, "a whole number of at least 32")
        least_1 = ("style_size", "batch_size", "steps", "width", "checkpoint_every")
        for name in least_1:
            self._check(name, getattr(self, name) >= 1, "a whole number of at least 1")
        for name in ("blocks", "warmup_steps"):
            self._check(name, getattr(self, name) >= 0, "a whole number of at least 0")
        self._check("learning_rate", self.learning_rate > 0, "a number above 0")
        self._check(
            "final_learning_rate",
            0 <= self.final_learning_rate <= self.learning_rate,
            "a number from 0 to learning_rate",
        )
        self._check("ema", 0 <= self.ema < 1, "a number from 0 to below 1")
        valid = all(step >= 1 for step in self.sample_steps)
        self._check("sample_steps", valid, "whole numbers of at least 1")


def weighted_layers(
    name: str, layers: Layers, default: Mapping[str, float]
) -> dict[str, float]:
    """Layers with their weights, which are 1 over their number if not given.

    Args:
      name: What the option is called, for the message.
      layers: A mapping, names or a name alone, or None for the default.
      default: The backbone's own.

    Returns:
      Weight by layer.

    Raises:
      UsageError: There is no layer of weight above 0, or a weight is negative.
    """
    if layers is None:
        layers = list(default)
    if isinstance(layers, str):
        layers = [layers]
    if not isinstance(layers, Mapping):
        layers = {layer: 1 / len(layers) for layer in layers}
    for layer, weight in layers.items():
        if not weight >= 0:
            raise UsageError(
                f"{name}={layer}:{weight}: a weight must be a number of at least 0"
            )
    if not any(layers.values()):
        raise UsageError(f"{name} is empty: name at least one layer of weight above 0")
    return dict(layers)
