"""The recipes: style transfer, feature inversion and texture synthesis.

Nothing here imports TensorFlow before a run starts, so that wrong input is refused at
once.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfstyle.backbones import check_backend
from tfstyle.colors import match_colors
from tfstyle.errors import UsageError
from tfstyle.images import load_image
from tfstyle.options import Options

if TYPE_CHECKING:
    from tfstyle.optimize import Callback
    from tfstyle.pyramid import Result

NOISE_STARTS = ("noise", "normal")
INVERSION: dict[str, Any] = {"init": "noise", "content_weight": 1.0, "tv_weight": 1.0}
TEXTURE: dict[str, Any] = {"init": "noise", "tv_weight": 0.0}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run whose options and pictures have been read and checked.

    Attributes:
      content: Content pictures ``[N, H, W, 3]``, or None if they have no weight.
      style: Style picture ``[1, H', W', 3]``, or None if it has no weight.
      start: First pictures ``[N, H'', W'', 3]``, or ``noise`` or ``normal``.
      size: Height and width of the result.
      options: Everything else.
    """

    content: np.ndarray | None
    style: np.ndarray | None
    start: np.ndarray | str
    size: tuple[int, int]
    options: Options

    def run(self, callbacks: Sequence[Callback] = ()) -> Result:
        """Carries the plan out; see ``stylize``."""
        check_backend()
        # TensorFlow takes seconds to import; what is wrong has been refused by now.
        from tfstyle.pyramid import PyramidRun

        return PyramidRun(
            self.content, self.style, self.start, self.size, self.options, callbacks
        ).run()


def stylize(
    content: Any, style: Any, *, callbacks: Sequence[Callback] = (), **options: Any
) -> Result:
    """Gives one picture the style of another (Gatys, Ecker and Bethge 2016).

    Example:
      >>> result = tfstyle.stylize("photo.jpg", "painting.jpg", size=768)
      >>> tfstyle.save_image(result.image, "out.png")

    Args:
      content: Path, ``PIL.Image``, array or tensor (see ``load_image``), or a list of
        them that have one size when loaded: they are optimised as one batch, which
        keeps a GPU busy. None where ``content_weight`` is 0.
      style: One picture; None where ``style_weight`` is 0.
      callbacks: Called with a ``Progress`` about four times a second; one that returns
        True ends the run with the picture so far.
      **options: The fields of ``tfstyle.Options``.

    Returns:
      The picture, the history of the loss terms, and the seconds that it took.

    Raises:
      UsageError: An option or a picture cannot be used; the message says why.
      ImageError: A file is not a picture, or is damaged.
      NonFiniteLossError: The loss became NaN or infinite; ``error.result`` has the
        last good picture.
    """
    return plan_stylize(content, style, **options).run(callbacks)


def invert_features(
    content: Any,
    layer: str | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Result:
    """Finds a picture whose features equal a picture's (Mahendran and Vedaldi 2015).

    Args:
      content: Path, ``PIL.Image``, array or tensor.
      layer: The layer whose features are inverted; None for ``content_layers``, or
        the backbone's own content layers.
      callbacks: As of ``stylize``.
      **options: The fields of ``tfstyle.Options``, with the defaults of ``INVERSION``.

    Returns:
      As ``stylize``.

    Raises:
      UsageError: As of ``stylize``.
      ImageError: As of ``stylize``.
      NonFiniteLossError: As of ``stylize``.
    """
    return plan_inversion(content, layer, **options).run(callbacks)


def synthesize_texture(
    style: Any,
    width: int | None = None,
    height: int | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Result:
    """Makes a new picture with the texture of another (Gatys et al. 2015).

    Args:
      style: Path, ``PIL.Image``, array or tensor.
      width: Width of the result in pixels; None for the style picture's.
      height: Height of the result in pixels; None for the style picture's.
      callbacks: As of ``stylize``.
      **options: The fields of ``tfstyle.Options``, with the defaults of ``TEXTURE``.

    Returns:
      As ``stylize``.

    Raises:
      UsageError: As of ``stylize``.
      ImageError: As of ``stylize``.
      NonFiniteLossError: As of ``stylize``.
    """
    return plan_texture(style, width, height, **options).run(callbacks)


def plan_stylize(content: Any, style: Any, **options: Any) -> Plan:
    """Reads and checks what ``stylize`` needs."""
    chosen = make_options(options)
    if content is None and chosen.content_weight:
        raise UsageError("no content picture: give one, or content_weight=0")
    if style is None and chosen.style_weight:
        raise UsageError("no style picture: give one, or style_weight=0")
    content = _batch(content, chosen)
    style = _loaded(style, chosen.style_size or chosen.size, chosen)
    recolor = chosen.recolor and chosen.content_weight and chosen.style_weight
    if recolor and content is not None and style is not None:
        content = np.stack([match_colors(picture, style) for picture in content])
    guide = style if content is None else content
    assert guide is not None  # options have refused two weights of 0
    return _plan(content, style, guide.shape[1:3], chosen)


def plan_inversion(content: Any, layer: str | None, **options: Any) -> Plan:
    """Reads and checks what ``invert_features`` needs."""
    chosen = {**INVERSION, **options, "style_weight": 0.0}
    if layer is not None:
        chosen["content_layers"] = {layer: 1.0}
    return plan_stylize(content, None, **chosen)


def plan_texture(
    style: Any, width: int | None, height: int | None, **options: Any
) -> Plan:
    """Reads and checks what ``synthesize_texture`` needs."""
    for name, side in (("width", width), ("height", height)):
        if side is not None and side < 1:
            raise UsageError(f"{name}={side}: give a whole number of at least 1")
    chosen = make_options({**TEXTURE, **options, "content_weight": 0.0})
    picture = _loaded(style, chosen.style_size or chosen.size, chosen)
    if picture is None:
        raise UsageError("no style picture: give one")
    size = (height or picture.shape[1], width or picture.shape[2])
    return _plan(None, picture, size, chosen)


def make_options(options: dict[str, Any]) -> Options:
    """Options from keywords.

    Raises:
      UsageError: A name or a value is not one that options can have.
    """
    known = {field.name for field in dataclasses.fields(Options)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(f"there is no option {unknown[0]!r}; see tfstyle.Options")
    return Options(**options)


def _loaded(source: Any, size: int, options: Options) -> np.ndarray | None:
    return None if source is None else _load(source, size, options)


def _load(source: Any, size: int, options: Options) -> np.ndarray:
    return load_image(
        source,
        size,
        size_of=options.size_of,  # type: ignore[arg-type]
        allow_upscale=options.allow_upscale,
    )


def _batch(sources: Any, options: Options) -> np.ndarray | None:
    """One picture, or several of one size."""
    if not isinstance(sources, list | tuple):
        return _loaded(sources, options.size, options)
    pictures = [_load(source, options.size, options) for source in sources]
    sizes = sorted({picture.shape[1:3] for picture in pictures})
    if len(sizes) > 1:
        shown = ", ".join(f"{width}×{height}" for height, width in sizes)
        raise UsageError(
            f"the content pictures have several sizes ({shown}); a batch needs one, so "
            "leave those of another size to another run"
        )
    if not pictures:
        raise UsageError("no content picture: the list is empty")
    return np.concatenate(pictures)


def _plan(
    content: np.ndarray | None,
    style: np.ndarray | None,
    size: tuple[int, int],
    options: Options,
) -> Plan:
    return Plan(
        content=content if options.content_weight else None,
        style=style if options.style_weight else None,
        start=_start(content, style, os.fspath(options.init)),
        size=size,
        options=options,
    )


def _start(
    content: np.ndarray | None, style: np.ndarray | None, init: str
) -> np.ndarray | str:
    if init in NOISE_STARTS:
        return init
    pictures = {"content": content, "style": style}
    picture = pictures[init] if init in pictures else load_image(init)
    if picture is None:
        raise UsageError(f"init={init}: there is no {init} picture to start from")
    batch = 1 if content is None else len(content)
    return picture if len(picture) == batch else np.repeat(picture, batch, axis=0)
