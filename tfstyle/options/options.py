"""The options of runs and trainings: each default and each help text stands here, once.

They are keywords in Python, flags on the command line, lines of a preset, and part of
what a picture remembers of how it was made. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tfstyle.errors import UsageError
from tfstyle.options.fields import (
    COLOR,
    MEMORY,
    NETWORK,
    OPTIMIZATION,
    PAPERS,
    PICTURES,
    STYLE,
    TRAINING,
    Layers,
    Path,
    check_options,
    option,
)

BackboneName = Literal["slim19", "vgg19", "vgg16", "squeezenet"]
Normalization = Literal["relative", "sum", "gatys", "mean"]
StyleLoss = Literal["neighbors", "wasserstein", "gram"]
Precision = Literal["auto", "float32", "bfloat16"]
Color = Literal["style", "content", "match", "free"]

NOISE_STARTS = ("noise", "normal")
_ADAM = {"optimizer": ("adam",)}


def _by_style_loss(**defaults: Any) -> dict[str, dict[str, Any]]:
    """A default for each style loss."""
    return {"style_loss": defaults}


def _style_loss(default: StyleLoss) -> Any:
    """The option that chooses the style loss."""
    return option(
        default,
        "How the picture is compared with the style: 'neighbors' compares each part "
        "with the part of the style that is most like it (Kolkin et al.), "
        "'wasserstein' means and covariances of features by the Wasserstein distance "
        "of Gaussians, 'gram' Gram matrices (Gatys et al.).",
        STYLE,
    )


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """The network that gives features."""

    backbone: BackboneName = option("slim19", "Feature network.", NETWORK)
    weights: Path = option(
        "imagenet",
        "Weights of the backbone: 'imagenet' (bundled for slim19, downloaded once for "
        "the others) or a file .h5, .weights.h5 or .npz.",
        NETWORK,
    )
    precision: Precision = option(
        "auto",
        "Precision of the network. Losses and picture are always float32. 'auto' is "
        "'bfloat16' on CPUs that can multiply it, else 'float32'.",
        NETWORK,
    )
    jit_compile: bool = option(
        False,
        "Compile the network with XLA, for GPUs. Runs may then not repeat bit for bit.",
        NETWORK,
    )
    pooling: Literal["max", "avg"] = option(
        None,
        "Pooling of the network.",
        PAPERS,
        by=_by_style_loss(neighbors="avg", wasserstein="avg", gram="max"),
    )
    preprocessing: Literal["caffe", "torch"] | None = option(
        None,
        "How a weights file expects its input, if not as the published one does.",
        PAPERS,
    )


@dataclasses.dataclass(frozen=True)
class ContentOptions:
    """What is kept of the content picture."""

    content_weight: float = option(
        None,
        "Weight of the content loss.",
        STYLE,
        at_least=0,
        by=_by_style_loss(neighbors=0.01, wasserstein=0.016, gram=0.05),
    )
    content_layers: Layers = option(
        None,
        "Content layers as name:weight,... ('block4_conv2' or 'relu4_2'; 'conv4_2' is "
        "before the ReLU). Default: the network's own.",
        STYLE,
    )
    laplacian_weight: float = option(
        0.0,
        "Weight of the content picture's edges: its Laplacian at a quarter of the "
        "size.",
        STYLE,
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class StyleOptions:
    """What is taken from the style picture."""

    style_loss: StyleLoss = _style_loss("wasserstein")
    style_weight: float = option(1.0, "Weight of the style loss.", STYLE, at_least=0)
    style_layers: Layers = option(
        None, "Style layers as name:weight,... Default: the network's own.", STYLE
    )


@dataclasses.dataclass(frozen=True)
class LossOptions(StyleOptions, ContentOptions, NetworkOptions):
    """A loss, whether a picture or a network is optimised.

    Raises:
      UsageError: If an option has a value that it cannot have, or one that has no
        effect with the others as they are.
    """

    tv_weight: float = option(
        None,
        "Weight of the total variation: more is smoother.",
        STYLE,
        at_least=0,
        by=_by_style_loss(neighbors=8.0, wasserstein=2.0, gram=0.5),
    )
    normalization: Normalization = option(
        "relative",
        "How the losses are scaled. 'relative' divides each by the target's own size, "
        "so that weights mean the same at every size and on every network.",
        PAPERS,
    )

    def __post_init__(self) -> None:
        """Checks everything that can be checked without reading a file."""
        check_options(self)
        if not (self.needs_content or self.needs_style):
            raise UsageError(
                "content_weight and style_weight are both 0: give one of them"
            )
        if self.style_loss == "neighbors" and self.normalization != "relative":
            raise UsageError(
                f"normalization={self.normalization!r} has no meaning for "
                "style_loss='neighbors', whose distances are angles; leave it out"
            )

    @property
    def needs_content(self) -> bool:
        """Whether any weight is about the content picture."""
        found = self.style_loss == "neighbors" and self.style_weight
        return bool(self.content_weight or self.laplacian_weight or found)

    @property
    def needs_style(self) -> bool:
        """Whether any weight is about the style picture."""
        return bool(self.style_weight)


@dataclasses.dataclass(frozen=True)
class SeedOptions:
    """What makes a run repeatable."""

    seed: int = option(0, "Seed of all random numbers.", OPTIMIZATION, at_least=0)


@dataclasses.dataclass(frozen=True)
class SizeOptions:
    """How large the result is."""

    size: int = option(512, "Longest side of the result in pixels.", MEMORY, at_least=1)
    allow_upscale: bool = option(
        False, "Enlarge pictures that are smaller than size.", MEMORY
    )
    size_of: Literal["longest", "shortest"] = option(
        "longest", "Which side 'size' and 'style_size' mean.", PAPERS
    )


@dataclasses.dataclass(frozen=True)
class MemoryOptions:
    """How much memory a run may take."""

    max_memory: float = option(
        0.0,
        "Gigabytes of memory to use at most. A picture that needs more is computed "
        "tile by tile, with the same result. 0: a safe share of what there is.",
        MEMORY,
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class StartOptions:
    """What the optimisation begins with."""

    init: Path = option(
        "content",
        "The picture to start from: content, style, noise (uniform), normal (Gaussian "
        "noise), or a file.",
        OPTIMIZATION,
    )


@dataclasses.dataclass(frozen=True)
class StopOptions:
    """Where a run ends early."""

    stop_at: int = option(
        0,
        "Step after which the run ends, as it would by Ctrl-C. 0: never.",
        OPTIMIZATION,
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class StrokeOptions:
    """How large the style's strokes are."""

    style_scale: Sequence[float] = option(
        None,
        "Size of the strokes: 2 makes them twice as large, by enlarging the style "
        "picture. One number for all styles, or one for each.",
        STYLE,
        at_least=0.05,
        at_most=20,
        by=_by_style_loss(neighbors=(1.0,), wasserstein=(1.5,), gram=(1.0,)),
    )
    style_size: int = option(
        0,
        "Longest side of the style picture in pixels, before style_scale. 0: same as "
        "size.",
        STYLE,
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class ColorOptions:
    """Whose colours the result has."""

    color: Color = option(
        "style",
        "'style': the content picture first takes the style's colours. 'content': the "
        "result keeps the content's colours, and only its luminance is stylized. "
        "'match': the style picture first takes the content's colours. 'free': none of "
        "these.",
        COLOR,
    )
    color_strength: float = option(
        1.0,
        "How far the colours change so; 0 leaves them alone.",
        COLOR,
        at_least=0,
        at_most=1,
        needs={"color": ("style", "content", "match")},
    )


@dataclasses.dataclass(frozen=True)
class ScaleOptions:
    """From coarse to fine."""

    steps: Sequence[int] | int = option(
        None,
        "Steps at each scale, from coarse to fine, counted in evaluations of the loss. "
        "The last number is for all further scales, too.",
        OPTIMIZATION,
        at_least=1,
        by=_by_style_loss(
            neighbors=(80, 50, 20), wasserstein=(80, 50, 30), gram=(100, 60, 40)
        ),
    )
    scales: int = option(
        0,
        "Number of scales, each half as large as the next. 0: as many as are useful.",
        OPTIMIZATION,
        at_least=0,
    )
    margin: int = option(
        16,
        "Pixels of mirrored border that are optimised at each scale and then cut off. "
        "Without it, colours gather at the border.",
        OPTIMIZATION,
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """How the loss is minimised."""

    optimizer: Literal["auto", "adam", "lbfgs"] = option(
        "auto",
        "'lbfgs' (with a strong-Wolfe line search) reaches a lower loss in fewer "
        "steps; 'adam' takes less memory; 'auto' is L-BFGS where it fits in memory.",
        OPTIMIZATION,
    )
    learning_rate: float = option(
        0.03,
        "Initial learning rate of Adam; length of the first step of L-BFGS.",
        OPTIMIZATION,
        above=0,
    )
    history: int = option(
        20,
        "Largest number of past steps that L-BFGS remembers.",
        OPTIMIZATION,
        at_least=1,
        needs={"optimizer": ("auto", "lbfgs")},
    )
    schedule: Literal["constant", "cosine", "exponential", "piecewise"] = option(
        "cosine",
        "How Adam's learning rate falls to final_learning_rate.",
        PAPERS,
        needs=_ADAM,
    )
    final_learning_rate: float = option(
        0.0,
        "Final learning rate of Adam.",
        PAPERS,
        at_least=0,
        needs={**_ADAM, "schedule": ("cosine", "exponential", "piecewise")},
    )
    decay_step: int = option(
        0,
        "Step at which the learning rate drops, with schedule=piecewise.",
        PAPERS,
        at_least=0,
        needs={**_ADAM, "schedule": ("piecewise",)},
    )
    beta_2: float = option(
        0.99,
        "Adam's decay of the second moment.",
        PAPERS,
        at_least=0,
        below=1,
        needs=_ADAM,
    )


@dataclasses.dataclass(frozen=True)
class SpaceOptions:
    """What is optimised, for experiments that did not optimise RGB in [0, 1]."""

    space: Literal["rgb", "normalized"] = option(
        "rgb",
        "What is optimised: RGB in [0, 1], or RGB normalised by ImageNet's mean and "
        "deviation. Clamp, learning rate and total variation are in its units.",
        PAPERS,
    )
    clamp: Sequence[float] = option(
        (0.0, 1.0),
        "Lowest and highest value of a pixel while optimising; empty for no limits.",
        PAPERS,
    )
    clamp_until: int = option(
        0,
        "Step after which values are no longer clamped. 0: they always are.",
        PAPERS,
        at_least=0,
        needs=_ADAM,
    )


@dataclasses.dataclass(frozen=True)
class Options(
    StopOptions,
    SeedOptions,
    SpaceOptions,
    StartOptions,
    OptimizerOptions,
    ScaleOptions,
    ColorOptions,
    StrokeOptions,
    MemoryOptions,
    SizeOptions,
    LossOptions,
):
    """Everything that can be chosen about a run, beside its pictures.

    Raises:
      UsageError: If an option has a value that it cannot have, or one that has no
        effect with the others as they are.
    """

    def __post_init__(self) -> None:
        """Checks everything that can be checked without reading a file."""
        super().__post_init__()
        if not self._all_steps:
            raise UsageError("steps is empty: give at least one number")
        if not len(self.style_scale):
            raise UsageError("style_scale is empty: give at least one number")
        if len(self.clamp) not in (0, 2) or list(self.clamp) != sorted(set(self.clamp)):
            raise UsageError(f"clamp={self.clamp!r}: give low,high in rising order")

    def steps_per_scale(self, scales: int) -> tuple[int, ...]:
        """Evaluations at each of ``scales`` scales, coarse to fine."""
        steps = self._all_steps
        return (*steps, *[steps[-1]] * (scales - len(steps)))[:scales]

    @property
    def _all_steps(self) -> tuple[int, ...]:
        return tuple(self.steps) if isinstance(self.steps, Sequence) else (self.steps,)


APPLY_COLORS = ("style", "content")
"""Whose colours a feed-forward network can leave a picture."""

EXPORT_FORMATS = {
    "savedmodel": None,
    "keras": ".keras",
    "litert": ".tflite",
    "onnx": ".onnx",
}
"""The extension of each format that a network is exported in; None for a folder."""
EXPORT_PRECISIONS = ("float32", "float16", "int8")
EXPORT_PARTS = ("whole", "encode", "stylize")
"""Of a network for any style."""


@dataclasses.dataclass(frozen=True)
class TrainingOptions(SeedOptions, LossOptions):
    """Everything that can be chosen about the training of a feed-forward network.

    Raises:
      UsageError: If an option has a value that it cannot have.
    """

    style_loss: StyleLoss = _style_loss("gram")
    size: int = option(
        256, "Side in pixels of the crops of photographs.", PICTURES, at_least=32
    )
    style_size: int = option(
        256,
        "Longest side of the style pictures in pixels: the scale of the strokes.",
        PICTURES,
        at_least=1,
    )
    recolor: bool = option(
        True,
        "Give each photograph the mean and covariance of its style picture's colours "
        "first, so that content and style agree about colours.",
        COLOR,
    )
    steps: int = option(20000, "Steps of the training.", TRAINING, at_least=1)
    batch_size: int = option(
        4, "Crops per step, over all devices and machines.", TRAINING, at_least=1
    )
    learning_rate: float = option(
        0.001, "Initial learning rate of Adam.", TRAINING, above=0
    )
    final_learning_rate: float = option(
        0.0001, "Final learning rate, reached along a cosine.", TRAINING, at_least=0
    )
    warmup_steps: int = option(
        200,
        "Steps over which the learning rate rises from 0 to learning_rate. Without "
        "them, large first steps can leave parts of the pictures black for good.",
        TRAINING,
        at_least=0,
    )
    ema: float = option(
        0.998,
        "Decay of the running mean of the weights; the mean is what is saved. 0: none.",
        TRAINING,
        at_least=0,
        below=1,
    )
    width: int = option(
        32,
        "Channels of the network's first convolution; Johnson et al. have 32.",
        TRAINING,
        at_least=1,
    )
    blocks: int = option(5, "Residual blocks of the network.", TRAINING, at_least=0)
    sample_steps: Sequence[int] = option(
        (100, 300, 1000, 3000, 10000, 30000),
        "Steps after which the test photograph is stylized, in addition to the last.",
        TRAINING,
        at_least=1,
    )
    checkpoint_every: int = option(
        500, "Steps between checkpoints.", TRAINING, at_least=1
    )

    def __post_init__(self) -> None:
        """Checks everything that can be checked without reading a file."""
        super().__post_init__()
        if self.style_loss == "neighbors":
            raise UsageError(
                "style_loss='neighbors' looks neighbours up for one picture at a time, "
                "which a training cannot; give 'wasserstein' or 'gram'"
            )
        if self.final_learning_rate > self.learning_rate:
            raise UsageError(
                f"final_learning_rate={self.final_learning_rate!r}: give a number from "
                "0 to learning_rate"
            )


def weighted_layers(
    name: str, layers: Layers, default: Mapping[str, float]
) -> dict[str, float]:
    """Layers with their weights, which are 1 over their number if not given.

    Args:
      name: The name of the option, for messages.
      layers: A mapping, a list of names or one name, or None for the default.
      default: The network's own layers.

    Returns:
      Weights by layer.

    Raises:
      UsageError: If no layer has a weight above 0, or a weight is negative.
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
