"""The recipes: style transfer, feature inversion and texture synthesis."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfstyle.backend import check_backend
from tfstyle.options import LossOptions
from tfstyle.stylizer.checkpoint import SECONDS_BETWEEN, Checkpoint
from tfstyle.stylizer.pictures import Plan, plan_inversion, plan_stylize, plan_texture

if TYPE_CHECKING:
    from tfstyle.optimizers.loop import Callback
    from tfstyle.stylizer.objective import Encoder
    from tfstyle.stylizer.run import Result


def run_plan(
    plan: Plan,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = SECONDS_BETWEEN,
    encoder: Encoder | None = None,
) -> Result:
    """Carries a plan out; see ``stylize``, and ``PyramidRun`` for the encoder."""
    check_backend()
    # TensorFlow takes seconds to import; what is wrong has been refused by now.
    from tfstyle.stylizer.run import PyramidRun

    kept = Checkpoint(checkpoint, plan, checkpoint_every) if checkpoint else None
    try:
        return PyramidRun(plan, callbacks, kept, encoder).run()
    finally:
        # The graphs of a run, tens of megabytes, are in cycles of references, for which
        # Python rarely looks where a process has as many objects as TensorFlow makes.
        gc.collect()


def make_repeatable(options: LossOptions) -> None:
    """Makes a run of the same seed give the same bits again, but for XLA.

    It sets the seed of every library and TensorFlow's determinism, for the whole
    process.
    """
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(options.seed)
    if not options.jit_compile:  # XLA has no deterministic gradient of max pooling
        tf.config.experimental.enable_op_determinism()


def stylize(
    content: Any,
    style: Any,
    *,
    content_mask: Any = None,
    style_mask: Any = None,
    protect: Any = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Result:
    """Gives one picture the style of another (Gatys, Ecker and Bethge 2016).

    Example:
      >>> result = tfstyle.stylize("photo.jpg", "painting.jpg", size=768)
      >>> tfstyle.save_image(result.image, "out.png")

    Args:
      content: Path, ``PIL.Image``, array or tensor (see ``load_image``), or a list of
        them that have one size when loaded: they are optimised as one batch, which
        keeps a GPU busy. None where ``content_weight`` is 0.
      style: One picture, a folder, a list of pictures or of ``(picture, weight)``, or a
        mapping from paths to weights: a blend of their Gram matrices. None where
        ``style_weight`` is 0.
      content_mask: A picture of the content picture's regions, grey or in the colours
        of ``images.masks.LABELS`` (Gatys et al. 2017). Each region takes the style of
        its place in the list, or what has its colour in ``style_mask``. With one
        style alone, black is left as it is.
      style_mask: The same for the style picture, or a list of one for each; without
        ``content_mask``, what is white counts.
      protect: A grey picture; what is white stays as it is.
      callbacks: Called with a ``Progress`` about four times a second; one that returns
        True ends the run with the picture so far.
      checkpoint: A folder that keeps the state of the run, so that the same call goes
        on after an interruption, with the same bits on a CPU.
      **options: The fields of ``tfstyle.Options``.

    Returns:
      The picture, the history of the loss terms, and the seconds that it took.

    Raises:
      UsageError: An option or a picture cannot be used; the message says why.
      ImageError: A file is not a picture, or is damaged.
      NonFiniteLossError: The loss became NaN or infinite; ``error.result`` has the
        last good picture.
    """
    masks = {
        "content_mask": content_mask,
        "style_mask": style_mask,
        "protect": protect,
    }
    return run_plan(
        plan_stylize(content, style, **masks, **options), callbacks, checkpoint
    )


def invert_features(
    content: Any,
    layer: str | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Result:
    """Finds a picture whose features equal a picture's (Mahendran and Vedaldi 2015).

    Args:
      content: Path, ``PIL.Image``, array or tensor.
      layer: The layer whose features are inverted; None for ``content_layers``, or
        the backbone's own content layers.
      callbacks: As of ``stylize``.
      checkpoint: As of ``stylize``.
      **options: The fields of ``tfstyle.Options``, with the defaults of ``INVERSION``.

    Returns:
      As ``stylize``.

    Raises:
      UsageError: As of ``stylize``.
      ImageError: As of ``stylize``.
      NonFiniteLossError: As of ``stylize``.
    """
    return run_plan(plan_inversion(content, layer, **options), callbacks, checkpoint)


def synthesize_texture(
    style: Any,
    width: int | None = None,
    height: int | None = None,
    *,
    style_mask: Any = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Result:
    """Makes a new picture with the texture of another (Gatys et al. 2015).

    Args:
      style: As of ``stylize``.
      width: Width of the result in pixels; None for the style picture's.
      height: Height of the result in pixels; None for the style picture's.
      style_mask: A grey picture, or a list of one for each style: what is white counts.
      callbacks: As of ``stylize``.
      checkpoint: As of ``stylize``.
      **options: The fields of ``tfstyle.Options``, with the defaults of ``TEXTURE``.

    Returns:
      As ``stylize``.

    Raises:
      UsageError: As of ``stylize``.
      ImageError: As of ``stylize``.
      NonFiniteLossError: As of ``stylize``.
    """
    plan = plan_texture(style, width, height, style_mask=style_mask, **options)
    return run_plan(plan, callbacks, checkpoint)
